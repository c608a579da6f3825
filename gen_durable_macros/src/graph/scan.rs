//! Reads the ways out of a step from its body, token by token, so that it also reads the arguments
//! of macros.
//!
//! Invariant: every use of the context reads from it, borrows it, or consumes it for an outcome.
//! Any other use makes the step opaque.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use syn::{
    Block, Expr, Stmt, Token, Type,
    ext::IdentExt,
    parse::{Parse, Parser},
    punctuated::Punctuated,
};

use super::{Edge, Flow};
use crate::{ast::ended, names::snake_case};

/// Methods of a context that make no outcome.
const READERS: &[&str] = &[
    "attempt",
    "cancelled",
    "count_signals",
    "discard_signal",
    "failures",
    "gather",
    "id",
    "now",
    "partition_key",
    "peek_signal",
    "queue",
    "step",
    "step_name",
    "take_signal",
    "take_signals",
    "timed_out",
];

/// Methods of an outcome that make it carry an insert or a signal.
const CARRIERS: &[&str] = &["insert", "insert_many", "signal", "spawn"];

/// The reading of one body.
pub(super) struct Scan<'a> {
    /// The name of the context in the body.
    context: &'a Ident,
    machine: &'a str,
    flow: &'a mut Flow,
    /// The tokens that each variable is made from: an insert is often built before the outcome that
    /// carries it.
    variables: BTreeMap<String, TokenStream>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(context: &'a Ident, machine: &'a str, flow: &'a mut Flow) -> Self {
        Self { context, machine, flow, variables: BTreeMap::new() }
    }

    pub(super) fn tokens(&mut self, tokens: TokenStream) {
        let trees = flat(tokens);
        for (index, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(ident) => self.ident(ident, &trees, index),
                _ => {}
            }
        }
    }

    fn ident(&mut self, ident: &Ident, trees: &[TokenTree], index: usize) {
        let before = &trees[..index];
        let after = &trees[index + 1..];
        if ends_with(before, &['.']) {
            match call(after) {
                Some((_, arguments, _)) if ident == "step" => self.inserted_at(arguments),
                Some((_, arguments, _)) if CARRIERS.iter().any(|name| ident == name) => {
                    // If its arguments name a machine, this is a method of an outcome in a
                    // variable. Otherwise it counts as a method of a collection.
                    if let Some(edge) = self.sent(&arguments.stream()) {
                        self.flow.push(edge.carried_by(ident));
                    }
                }
                _ => {}
            }
        } else if ident == self.context {
            self.context(before, after);
        } else if ident == "let" {
            self.variable(after);
        }
    }

    /// Reads a use of the context, which stands between these tokens.
    fn context(&mut self, before: &[TokenTree], after: &[TokenTree]) {
        if ends_with(before, &['&']) || follows(before, "mut") || follows(before, "let") {
            // A borrowed context is not consumed by an outcome, and a binding is no use.
            return;
        }
        if is_rebound(before, self.context) {
            return;
        }
        let (Some(dot), Some(TokenTree::Ident(method))) = (after.first(), after.get(1)) else {
            self.flow.opaque = true;
            return;
        };
        if !is_punct(dot, '.') {
            self.flow.opaque = true;
            return;
        }
        let method = method.unraw().to_string();
        match call(&after[2..]) {
            // A field: it makes no outcome.
            None => {}
            Some(_) if READERS.contains(&&*method) => {}
            Some((types, arguments, rest)) => {
                self.outcome(&method, types, &arguments.stream());
                self.carried(rest);
            }
        }
    }

    fn outcome(&mut self, method: &str, types: &[TokenTree], arguments: &TokenStream) {
        match method {
            "next" => self.next(arguments, false),
            "next_in" => self.next(arguments, true),
            "replay" => self.flow.push(Edge::Replay),
            "snooze" => self.flow.push(Edge::Snooze),
            "await_signal" | "await_any" | "await_count" => self.awaits(types, false),
            "await_signal_for" | "await_signal_until" | "await_any_for" | "await_any_until"
            | "await_count_for" => self.awaits(types, true),
            "done" => self.flow.push(Edge::Done),
            "stop" => self.flow.push(Edge::Stop),
            // An unknown method, such as one of the user's, may do anything.
            _ => self.flow.opaque = true,
        }
    }

    fn next(&mut self, arguments: &TokenStream, delayed: bool) {
        match expressions(arguments).as_ref().and_then(Punctuated::first) {
            Some(target) => self.target(target, delayed),
            None => self.flow.opaque = true,
        }
    }

    fn target(&mut self, target: &Expr, delayed: bool) {
        match target {
            Expr::Path(path) if path.qself.is_none() => match variant(path) {
                Some(to) => self.flow.push(Edge::next(to, delayed)),
                None => self.flow.opaque = true,
            },
            Expr::Paren(inner) => self.target(&inner.expr, delayed),
            Expr::Group(inner) => self.target(&inner.expr, delayed),
            Expr::Block(inner) => self.tail(&inner.block, delayed),
            Expr::If(branch) => {
                self.tail(&branch.then_branch, delayed);
                if let Some((_, other)) = &branch.else_branch {
                    self.target(other, delayed);
                }
            }
            Expr::Match(choice) => {
                for arm in &choice.arms {
                    self.target(&arm.body, delayed);
                }
            }
            // The scan finds the outcome of a `return` by itself.
            Expr::Return(_) => {}
            _ => self.flow.opaque = true,
        }
    }

    fn tail(&mut self, block: &Block, delayed: bool) {
        match block.stmts.last() {
            Some(Stmt::Expr(tail, None)) => self.target(tail, delayed),
            Some(Stmt::Expr(Expr::Return(_), _)) => {}
            _ => self.flow.opaque = true,
        }
    }

    fn awaits(&mut self, types: &[TokenTree], timeout: bool) {
        let types = types.iter().cloned().collect();
        let types = Punctuated::<Type, Token![,]>::parse_terminated.parse2(types);
        let names: Option<Vec<String>> = match types.ok().as_ref().and_then(Punctuated::first) {
            Some(Type::Tuple(types)) => types.elems.iter().map(signal_name).collect(),
            Some(ty) => signal_name(ty).map(|name| vec![name]),
            None => None,
        };
        match names {
            Some(names) => names.into_iter().for_each(|signal| {
                self.flow.push(Edge::Await { signal, timeout });
            }),
            None => self.flow.opaque = true,
        }
    }

    /// Reads the inserts and signals that an outcome carries: `.insert(…)`, `.insert_many(…)`,
    /// `.spawn(…)` and `.signal(…)` behind it.
    fn carried(&mut self, mut rest: &[TokenTree]) {
        while let [dot, TokenTree::Ident(method), after @ ..] = rest {
            let Some((_, arguments, behind)) = call(after).filter(|_| is_punct(dot, '.')) else {
                return;
            };
            let edge = if method == "insert" || method == "insert_many" || method == "spawn" {
                Edge::Insert { machine: None }
            } else if method == "signal" {
                Edge::Signal { machine: None, signal: None }
            } else {
                return;
            };
            let edge = self.sent(&arguments.stream()).unwrap_or(edge);
            self.flow.push(edge.carried_by(method));
            rest = behind;
        }
    }

    /// Finds the insert or the signal in an expression that names its machine: `Line::insert(…)`,
    /// `Text::signal_ended(…)`.
    fn sent(&self, expression: &TokenStream) -> Option<Edge> {
        let mut trees = flat(expression.clone());
        if let [TokenTree::Ident(variable)] = &trees[..] {
            trees = flat(self.variables.get(&variable.to_string())?.clone());
        }
        self.sent_by(&trees)
    }

    fn sent_by(&self, trees: &[TokenTree]) -> Option<Edge> {
        for (index, tree) in trees.iter().enumerate() {
            let found = match (tree, &trees[index + 1..]) {
                (TokenTree::Group(group), _) => self.sent_by(&flat(group.stream())),
                (TokenTree::Ident(machine), [one, two, TokenTree::Ident(function), ..])
                    if is_punct(one, ':') && is_punct(two, ':') =>
                {
                    self.call_of(machine, function)
                }
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The insert or the signal that a machine's generated function makes.
    fn call_of(&self, machine: &Ident, function: &Ident) -> Option<Edge> {
        let machine = match machine.unraw().to_string() {
            name if name == "Self" => self.machine.to_owned(),
            name => name,
        };
        if !machine.starts_with(char::is_uppercase) {
            return None;
        }
        let machine = Some(machine);
        match &*function.to_string() {
            "insert" | "insert_many" => Some(Edge::Insert { machine }),
            "signal" => Some(Edge::Signal { machine, signal: None }),
            other => {
                let signal = Some(other.strip_prefix("signal_")?.to_owned());
                Some(Edge::Signal { machine, signal })
            }
        }
    }

    /// Notes the step of an insert's `.step(Checkout::Ship)`.
    fn inserted_at(&mut self, arguments: &Group) {
        let Some(arguments) = expressions(&arguments.stream()) else { return };
        if let Some(Expr::Path(path)) = arguments.first()
            && let Some(to) = variant(path)
        {
            self.flow.inserted_at.push(snake_case(&to.unraw().to_string()));
        }
    }

    /// Notes the tokens behind `let name =`.
    fn variable(&mut self, after: &[TokenTree]) {
        let after = match after {
            [TokenTree::Ident(word), rest @ ..] if word == "mut" => rest,
            _ => after,
        };
        let [TokenTree::Ident(name), rest @ ..] = after else { return };
        let value = rest.iter().skip_while(|tree| !is_punct(tree, '=')).skip(1);
        let value = value.take_while(|tree| !is_punct(tree, ';'));
        self.variables.insert(name.to_string(), value.cloned().collect());
    }
}

/// Returns the tokens without invisible groups. The compiler puts such a group around tokens that a
/// macro of the user's inserted.
pub(super) fn flat(tokens: TokenStream) -> Vec<TokenTree> {
    let mut trees = Vec::new();
    for tree in tokens {
        match tree {
            TokenTree::Group(group) if group.delimiter() == Delimiter::None => {
                trees.extend(flat(group.stream()));
            }
            tree => trees.push(tree),
        }
    }
    trees
}

pub(super) fn is_punct(tree: &TokenTree, wanted: char) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

pub(super) fn ends_with(before: &[TokenTree], puncts: &[char]) -> bool {
    before.last().is_some_and(|tree| puncts.iter().any(|punct| is_punct(tree, *punct)))
        // The last dot of `..` accesses no field.
        && !(before.len() > 1 && is_punct(&before[before.len() - 2], '.'))
}

pub(super) fn follows(before: &[TokenTree], word: &str) -> bool {
    matches!(before.last(), Some(TokenTree::Ident(ident)) if ident == word)
}

/// True if the tokens before a context bind its own name to it, as in `let mut cx = cx`.
fn is_rebound(before: &[TokenTree], context: &Ident) -> bool {
    let [.., TokenTree::Ident(name), equals] = before else { return false };
    name == context && is_punct(equals, '=')
}

/// Reads a call behind a method's name: its types, its arguments, and the tokens behind it.
pub(super) fn call(after: &[TokenTree]) -> Option<(&[TokenTree], &Group, &[TokenTree])> {
    let (types, rest) = match after {
        [one, two, open, rest @ ..]
            if is_punct(one, ':') && is_punct(two, ':') && is_punct(open, '<') =>
        {
            let mut depth = 1_usize;
            let end = rest.iter().position(|tree| {
                depth += usize::from(is_punct(tree, '<'));
                depth -= usize::from(is_punct(tree, '>'));
                depth == 0
            })?;
            (&rest[..end], &rest[end + 1..])
        }
        _ => (&after[..0], after),
    };
    match rest {
        [TokenTree::Group(group), behind @ ..] if group.delimiter() == Delimiter::Parenthesis => {
            Some((types, group, behind))
        }
        _ => None,
    }
}

fn expressions(tokens: &TokenStream) -> Option<Punctuated<Expr, Token![,]>> {
    let parser = |input: syn::parse::ParseStream<'_>| {
        Punctuated::<Expr, Token![,]>::parse_terminated_with(input, Expr::parse)
    };
    parser.parse2(tokens.clone()).ok()
}

/// The variant that a path names; none if its last name is a variable's or a constant's.
fn variant(path: &syn::ExprPath) -> Option<&Ident> {
    let ident = &path.path.segments.last()?.ident;
    let name = ident.unraw().to_string();
    let is_constant = name.chars().count() > 1
        && name.chars().all(|letter| letter.is_uppercase() || letter == '_');
    (name.starts_with(char::is_uppercase) && !is_constant).then_some(ident)
}

/// The name of a signal's type: `paid` of `Paid`, and `ended(parcel)` of `Ended<Parcel>`.
fn signal_name(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => match ended(&path.path) {
            Some(machine) => Some(format!("ended({})", signal_name(machine)?)),
            None => Some(snake_case(&path.path.segments.last()?.ident.unraw().to_string())),
        },
        Type::Group(inner) => signal_name(&inner.elem),
        Type::Paren(inner) => signal_name(&inner.elem),
        _ => None,
    }
}
