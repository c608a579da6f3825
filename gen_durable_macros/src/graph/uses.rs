//! Finds uses of the context in a body that the compiler would report without saying what to do.
//!
//! Invariant: a use is noted only if it is certain to be one of the context. In a body that binds
//! the context's name anew, no use is certain.

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};
use quote::quote;

use super::scan::{call, ends_with, flat, follows, is_punct};

/// Uses of a context for which the macros have an error of their own.
#[derive(Default)]
pub(crate) struct Uses {
    /// The first field of the state that the body names, or the key of a limit: `cx.state.order`.
    pub(crate) field: Option<Use>,
    /// Uses in the arguments of an outcome, which has consumed the context by then:
    /// `cx.replay(f(cx.attempt()))`.
    pub(crate) late: Vec<Late>,
}

/// A use: the context, with the fields and calls behind it.
pub(crate) struct Use {
    /// The last name in it that says what it is: `order` of `cx.state.order`.
    pub(crate) name: String,
    pub(crate) tokens: TokenStream,
}

/// A use of a context that an outcome has consumed.
pub(crate) struct Late {
    /// `cx.replay`
    pub(crate) outcome: String,
    pub(crate) of: Use,
}

/// Methods that consume the context and take arguments.
const OUTCOMES: &[&str] = &[
    "await_any_for",
    "await_any_until",
    "await_count",
    "await_count_for",
    "await_signal_for",
    "await_signal_until",
    "done",
    "next",
    "next_in",
    "replay",
    "snooze",
    "stop",
];

/// Methods that do not say what a value is. A use with one of them is named after the field or
/// method before it.
const CONVERSIONS: &[&str] =
    &["as_deref", "as_ref", "as_str", "clone", "cloned", "into", "to_owned", "to_string", "unwrap"];

impl Uses {
    pub(crate) fn read(context: &Ident, body: TokenStream) -> Self {
        let mut uses = Self::default();
        if !binds(context, &body) {
            uses.scan(context, body);
        }
        uses
    }

    /// Reads the key of a limit, in which `state` is the state.
    pub(crate) fn read_key(&mut self, key: TokenStream) {
        let state = Ident::new("state", Span::call_site());
        if !binds(&state, &key) {
            self.scan_key(&state, key);
        }
    }

    fn scan_key(&mut self, state: &Ident, tokens: TokenStream) {
        let trees = flat(tokens);
        for (index, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Group(group) => self.scan_key(state, group.stream()),
                TokenTree::Ident(ident)
                    if ident == state && !ends_with(&trees[..index], &['.']) =>
                {
                    self.note_field(&trees[index..], 1);
                }
                _ => {}
            }
        }
    }

    /// Notes a field of the state. The first `length` trees are the state, and the field may
    /// follow.
    fn note_field(&mut self, trees: &[TokenTree], length: usize) {
        if let [dot, field, behind @ ..] = &trees[length..]
            && is_punct(dot, '.')
            && call(behind).is_none()
            && self.field.is_none()
        {
            let name = field.to_string().trim_start_matches("r#").to_owned();
            let tokens = trees[..length + 2].iter().cloned().collect();
            self.field = Some(Use { name, tokens });
        }
    }

    fn scan(&mut self, context: &Ident, tokens: TokenStream) {
        let trees = flat(tokens);
        for (index, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Group(group) => self.scan(context, group.stream()),
                TokenTree::Ident(ident)
                    if ident == context && !ends_with(&trees[..index], &['.']) =>
                {
                    self.note(context, &trees[index..]);
                }
                _ => {}
            }
        }
    }

    /// Notes a use if it is of a kind that [`Uses`] has; `trees` begin with the context.
    fn note(&mut self, context: &Ident, trees: &[TokenTree]) {
        let [_, dot, TokenTree::Ident(member), after @ ..] = trees else { return };
        if !is_punct(dot, '.') {
            return;
        }
        if member == "state" {
            self.note_field(trees, 3);
        } else if OUTCOMES.iter().any(|outcome| member == outcome) {
            let outcome = format!("{context}.{member}");
            let mut rest = after;
            // The outcome has arguments, and so has each insert and signal that it carries.
            while let Some((_, arguments, behind)) = call(rest) {
                let of = first_use(context, &arguments.stream());
                self.late.extend(of.map(|of| Late { outcome: outcome.clone(), of }));
                let [dot, TokenTree::Ident(_), after @ ..] = behind else { return };
                if !is_punct(dot, '.') {
                    return;
                }
                rest = after;
            }
        }
    }
}

/// Finds the first use of the context in an argument; none if the context also stands there without
/// a `.` behind it.
fn first_use(context: &Ident, arguments: &TokenStream) -> Option<Use> {
    let trees = flat(arguments.clone());
    let mut first = None;
    for (index, tree) in trees.iter().enumerate() {
        let found = match tree {
            TokenTree::Group(group) => first_use(context, &group.stream()),
            TokenTree::Ident(ident) if ident == context && !ends_with(&trees[..index], &['.']) => {
                if !trees.get(index + 1).is_some_and(|next| is_punct(next, '.')) {
                    return None;
                }
                Some(chain(&trees[index..]))
            }
            _ => None,
        };
        first = first.or(found);
    }
    first
}

/// Reads a context and the fields and calls behind it.
fn chain(trees: &[TokenTree]) -> Use {
    let (mut name, mut end) = (String::new(), 1);
    while let [dot, member, ..] = &trees[end..] {
        if !is_punct(dot, '.') {
            break;
        }
        end += 2;
        if let TokenTree::Ident(member) = member
            && !CONVERSIONS.iter().any(|conversion| member == conversion)
        {
            name = member.to_string();
        }
        if let Some((_, _, behind)) = call(&trees[end..]) {
            end = trees.len() - behind.len();
        }
    }
    Use { name, tokens: trees[..end].iter().cloned().collect() }
}

/// True if a body gives the context's name to another value, as far as the tokens show it.
fn binds(context: &Ident, tokens: &TokenStream) -> bool {
    let trees = flat(tokens.clone());
    trees.iter().enumerate().any(|(index, tree)| {
        let (before, after) = (&trees[..index], &trees[index + 1..]);
        match tree {
            TokenTree::Ident(ident) if ident == context => is_pattern(context, before, after),
            // The name is bound in `Some(cx) => …`, `let (cx, end) = …`, `|Circle { cx, .. }| …`.
            TokenTree::Group(group) => {
                let opens = ends_with(before, &['|']) && group.delimiter() != Delimiter::Brace;
                let next = |mark| after.first().is_some_and(|next| is_punct(next, mark));
                let in_pattern = opens || next('=') || next('|') || next(':');
                (in_pattern && mentions(context, &group.stream()))
                    || binds(context, &group.stream())
            }
            _ => false,
        }
    })
}

/// True if the context's name stands in a place that binds it to a value.
fn is_pattern(context: &Ident, before: &[TokenTree], after: &[TokenTree]) -> bool {
    let next = |first: char, second: Option<char>| {
        after.first().is_some_and(|tree| is_punct(tree, first))
            && second.is_none_or(|second| after.get(1).is_some_and(|tree| is_punct(tree, second)))
    };
    let is_mut = follows(before, "mut");
    let before_mut = if is_mut { &before[..before.len() - 1] } else { before };
    if follows(before_mut, "let") {
        // After `let mut cx = cx;` the name still means the context.
        let itself = matches!(
            after,
            [equals, TokenTree::Ident(value), end, ..]
                if is_punct(equals, '=') && value == context && is_punct(end, ';')
        );
        return !itself;
    }
    let bound = ["for", "ref"].iter().any(|word| follows(before_mut, word))
        || ends_with(before_mut, &['|'])
        || (is_mut && !ends_with(before_mut, &['&']));
    let typed = next(':', None) && !next(':', Some(':'));
    bound
        || typed
        || next('|', None)
        || next('@', None)
        || next('=', Some('>'))
        || matches!(after, [TokenTree::Ident(word), ..] if word == "in")
}

fn mentions(context: &Ident, tokens: &TokenStream) -> bool {
    tokens.clone().into_iter().any(|tree| match tree {
        TokenTree::Group(group) => mentions(context, &group.stream()),
        TokenTree::Ident(ident) => ident == *context,
        _ => false,
    })
}

impl Late {
    /// The error, which says what to write instead.
    pub(crate) fn message(&self) -> String {
        let Use { name, tokens } = &self.of;
        let name = if name.is_empty() { "value" } else { name };
        let text = quote!(#tokens).to_string().replace(" . ", ".").replace(" ()", "()");
        // If a field were moved out of it, no outcome could consume the context.
        let is_field = !text.ends_with(')');
        let (clone, unless) =
            if is_field { (".clone()", ", without `.clone()` if it is `Copy`,") } else { ("", "") };
        format!(
            "`{outcome}(…)` consumes the context before this is evaluated: write `let {name} = {text}{clone};` before it{unless} and use `{name}` here",
            outcome = self.outcome
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: TokenStream) -> Uses {
        Uses::read(&quote::format_ident!("cx"), body)
    }

    fn late(body: TokenStream) -> Vec<String> {
        let uses = read(body);
        uses.late.iter().map(|late| format!("{} {}", late.outcome, late.of.name)).collect()
    }

    #[test]
    fn arguments_that_use_a_consumed_context() {
        for (body, expected) in [
            (quote!(cx.replay(backoff(cx.attempt()))), "cx.replay attempt"),
            (quote!(Ok(cx.done(cx.state.name.clone()))), "cx.done name"),
            (quote!(cx.stop(format!("{} of {}", why, cx.id()))), "cx.stop id"),
            (quote!(cx.next(M::A).insert(A::insert(1)).signal(B::go(cx.state.b))), "cx.next b"),
            (
                quote!({
                    let mut cx = cx;
                    cx.next_in(M::A, cx.state.0)
                }),
                "cx.next_in state",
            ),
        ] {
            assert_eq!(late(body), [expected]);
        }
    }

    #[test]
    fn arguments_that_may_use_something_else() {
        for body in [
            quote!({
                let attempt = cx.attempt();
                cx.replay(backoff(attempt))
            }),
            quote!(cx.done(cx)),
            quote!(cx.done(self.cx.id())),
            quote!(cx.replay(wait(&cx, cx.attempt()))),
            quote!(numbers.map(|cx| cx.next(cx.number()))),
            quote!({
                let (cx, end) = split(cx);
                cx.next(cx.number())
            }),
            quote!(match find(cx) {
                Some(cx) => cx.next(cx.number()),
                None => 1,
            }),
            quote!(for cx in all {
                cx.next(cx.number());
            }),
            quote!({
                let cx = Mine(cx);
                cx.next(cx.number())
            }),
            quote!({
                fn f(cx: &Mine) -> u8 {
                    cx.next(cx.number())
                }
                f(&mine)
            }),
        ] {
            let text = body.to_string();
            assert!(late(body).is_empty(), "{text}");
        }
    }

    #[test]
    fn fields_of_a_state_and_not_its_methods() {
        let field = |body| read(body).field.map(|field| field.name);
        assert_eq!(field(quote!(cx.state.order += 1)).as_deref(), Some("order"));
        assert_eq!(field(quote!(print(&mut cx.state.0))).as_deref(), Some("0"));
        assert_eq!(field(quote!(cx.state.clone().order)), None);
        let key = |key| {
            let mut uses = Uses::default();
            uses.read_key(key);
            uses.field.map(|field| field.name)
        };
        assert_eq!(key(quote!(format!("{}", state.order.id))).as_deref(), Some("order"));
        assert_eq!(key(quote!(state.order())), None);
        assert_eq!(key(quote!(self.state.order)), None);
        assert_eq!(key(quote!(orders.map(|state| state.order))), None);
        assert_eq!(field(quote!(self.cx.state.order)), None);
        assert_eq!(
            field(quote!({
                let cx = Mine(cx);
                cx.state.order
            })),
            None
        );
    }
}
