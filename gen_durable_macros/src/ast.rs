//! The model of the items that the macros read: an enum of steps, an impl block of step functions,
//! and a job.
//!
//! Invariant: the model keeps the user's syntax with its spans. A mistake is recorded, and reading
//! goes on.

use std::collections::BTreeSet;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident};
use syn::{
    Attribute, Block, FnArg, GenericArgument, ImplItem, ImplItemFn, ItemEnum, ItemFn, ItemImpl,
    Pat, Path, PathArguments, ReturnType, Signature, Type, TypeParamBound, TypeReference,
    ext::IdentExt, parse_quote,
};

use crate::{
    attr::{Limit, MachineOptions, StepOptions},
    errors::Errors,
    graph::{self, Edge, Flow, Uses},
    names::{camel_case, compact, snake_case},
};

/// The enum: the specification of a machine.
pub(crate) struct MachineEnum {
    pub(crate) item: ItemEnum,
    pub(crate) options: MachineOptions,
    pub(crate) steps: Vec<Variant>,
}

/// A variant: a step.
pub(crate) struct Variant {
    pub(crate) ident: Ident,
    /// The name of the step in the database, and of its function.
    pub(crate) name: String,
    /// `#[cfg(…)]` attributes.
    pub(crate) cfgs: Vec<Attribute>,
}

impl MachineEnum {
    pub(crate) fn new(item: ItemEnum, options: MachineOptions) -> Self {
        let steps = item
            .variants
            .iter()
            .map(|variant| Variant {
                ident: variant.ident.clone(),
                name: snake_case(&variant.ident.unraw().to_string()),
                cfgs: cfgs(&variant.attrs),
            })
            .collect();
        Self { item, options, steps }
    }

    /// Says what `name` already means in a machine, if no step can have it.
    pub(crate) fn taken(&self, name: &str) -> Option<String> {
        match name {
            "insert" | "insert_many" | "by_key" | "signal" => {
                return Some("a function that `#[durable_fsm]` generates".to_owned());
            }
            "handle" => return Some("the function that decides what follows an error".to_owned()),
            _ => {}
        }
        let mut signals = self.options.signals.iter();
        let signal = signals.find(|signal| {
            ended(signal).is_none() && signal_helper(signal).is_some_and(|helper| helper == name)
        })?;
        Some(format!("the function that sends the signal `{}`", compact(signal)))
    }

    /// True if two variants without a `#[cfg(…)]` have one name, which the compiler reports.
    pub(crate) fn has_twins(&self) -> bool {
        let plain = |step: &&Variant| step.cfgs.is_empty();
        let mut seen = BTreeSet::new();
        !self.steps.iter().filter(plain).all(|step| seen.insert(&step.ident))
    }
}

/// The impl block: the behaviour of a machine.
pub(crate) struct MachineImpl {
    pub(crate) item: ItemImpl,
    /// The name under which the expansion imports `gen_durable::__private`.
    pub(crate) import: Ident,
    pub(crate) steps: Vec<StepFn>,
    pub(crate) handle: Option<StepFn>,
    pub(crate) others: Vec<OtherFn>,
    /// The function of the trait `Steps` that states a job's schedule.
    pub(crate) schedule: Option<TokenStream>,
}

/// A function that is a step, or `handle`.
pub(crate) struct StepFn {
    pub(crate) ident: Ident,
    pub(crate) name: String,
    /// The types of the resources: those behind the references that follow the context.
    pub(crate) resources: Vec<Type>,
    /// The place of the transaction among the resources, if the step takes one.
    pub(crate) transaction: Option<usize>,
    /// The span of the return type's first token, or of the function's name without such a type.
    pub(crate) output: Span,
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) options: StepOptions,
    pub(crate) flow: Flow,
    pub(crate) uses: Uses,
    /// True if its targets are declared and its code does not tell all of them. Then each run
    /// checks its target.
    pub(crate) trusted: bool,
}

/// A function that is no step. If a variant has its name, it should have been one. The constants of
/// the expansion check this, as the variants are not known before the compiler evaluates these.
pub(crate) struct OtherFn {
    pub(crate) name: String,
    pub(crate) why: WhyNot,
    /// The first and the last token of the part that keeps it from being a step.
    pub(crate) at: (Span, Span),
    pub(crate) cfgs: Vec<Attribute>,
}

/// Why a function is no step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhyNot {
    /// `fn ship(cx: Context<Self>)`
    NotAsync,
    /// `async fn ship(cx: &Context<Self>)`
    Borrowed,
    /// `async fn ship(order: Order)`
    NoContext,
}

impl MachineImpl {
    pub(crate) fn new(item: ItemImpl, errors: &mut Errors) -> Self {
        let (mut steps, mut others) = (Vec::new(), Vec::new());
        let mut handle = None;
        let machine = machine_name(&item);
        for function in functions(&item) {
            match why_not(function) {
                why if function.sig.ident == "handle" => {
                    if why != Some(WhyNot::NoContext) {
                        handle = Some(StepFn::new(function, 2, &machine, errors));
                    }
                }
                None => steps.push(StepFn::new(function, 1, &machine, errors)),
                Some(why) => others.push(OtherFn::new(function, why)),
            }
        }
        // The import stands in the user's module, so each block needs a name of its own for it.
        let first = steps.first().map(|step: &StepFn| &*step.name).unwrap_or_default();
        let import = format_ident!("__gen_durable_{}_{first}", machine.trim_start_matches("r#"));
        let mut machine = Self { item, import, steps, handle, others, schedule: None };
        graph::resolve(&mut machine, errors);
        machine
    }

    /// The machine's name, as the user wrote it.
    pub(crate) fn machine(&self) -> String {
        machine_name(&self.item)
    }
}

fn machine_name(item: &ItemImpl) -> String {
    match &*item.self_ty {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .map_or_else(|| "Self".to_owned(), |segment| segment.ident.to_string()),
        _ => "Self".to_owned(),
    }
}

impl StepFn {
    fn new(function: &ImplItemFn, skip: usize, machine: &str, errors: &mut Errors) -> Self {
        let sig = &function.sig;
        let (resources, transaction) = parameters(sig, skip);
        let options = StepOptions::read(&function.attrs, skip == 2, errors);
        Self {
            ident: sig.ident.clone(),
            name: sig.ident.unraw().to_string(),
            resources,
            transaction,
            output: match &sig.output {
                ReturnType::Default => sig.ident.span(),
                ReturnType::Type(_, ty) => ends(ty).0,
            },
            cfgs: cfgs(&function.attrs),
            flow: Flow::read(sig, &function.block, machine),
            uses: uses(sig, &function.block, options.limit.as_ref()),
            options,
            trusted: false,
        }
    }
}

/// Reads how a function uses its context, and the key of its limit the state. A context without a
/// name has no uses.
fn uses(sig: &Signature, body: &Block, limit: Option<&Limit>) -> Uses {
    let mut uses = match sig.inputs.first() {
        Some(FnArg::Typed(first)) => match &*first.pat {
            Pat::Ident(context) => Uses::read(&context.ident, body.to_token_stream()),
            _ => Uses::default(),
        },
        _ => Uses::default(),
    };
    if let Some(key) = limit.and_then(|limit| limit.key.as_ref()) {
        uses.read_key(key.to_token_stream());
    }
    uses
}

impl OtherFn {
    fn new(function: &ImplItemFn, why: WhyNot) -> Self {
        let sig = &function.sig;
        let at = match (why, sig.inputs.first()) {
            (WhyNot::NotAsync, _) => ends(&sig.fn_token),
            (WhyNot::Borrowed, Some(FnArg::Typed(input))) => ends(&input.ty),
            (WhyNot::NoContext, Some(first)) => ends(first),
            _ => ends(&sig.ident),
        };
        Self { name: sig.ident.unraw().to_string(), why, at, cfgs: cfgs(&function.attrs) }
    }
}

/// A function that is a machine of one step.
pub(crate) struct Job {
    pub(crate) item: ItemFn,
    /// The machine's name; none if no type's name can be made of the function's.
    pub(crate) machine: Option<Ident>,
    pub(crate) state: Type,
    pub(crate) resources: Vec<Type>,
    /// The place of the transaction among the resources, if the job takes one.
    pub(crate) transaction: Option<usize>,
    pub(crate) output: Type,
    /// True if it returns a `Result`.
    pub(crate) fallible: bool,
    /// True if it returns a `JobOutcome`, or a `Result` of one.
    pub(crate) decides: bool,
    /// The ways out of its body if it decides, and otherwise `done` alone.
    pub(crate) flow: Flow,
    pub(crate) uses: Uses,
    /// The span of the return type's first token, or of the function's name without such a type.
    pub(crate) output_at: Span,
}

impl Job {
    pub(crate) fn new(item: ItemFn, options: &MachineOptions) -> Self {
        let sig = &item.sig;
        let machine = camel_case(&sig.ident.unraw().to_string());
        let machine = syn::parse_str::<Ident>(&machine).ok();
        let machine = machine.map(|ident| Ident::new(&ident.to_string(), sig.ident.span()));
        let state = match sig.inputs.first() {
            Some(FnArg::Typed(first)) if is_named(&first.ty, "JobContext") => {
                argument(&first.ty).cloned()
            }
            _ => None,
        };
        let (output, fallible, output_at) = match &sig.output {
            ReturnType::Default => (parse_quote!(()), false, sig.ident.span()),
            ReturnType::Type(_, ty) => match result_of(ty) {
                Some(output) => (output.clone(), true, ends(ty).0),
                // A bare `Result` hides the result's type, which `check_job` reports.
                None if is_named(ty, "Result") => (parse_quote!(()), true, ends(ty).0),
                None => ((**ty).clone(), false, ends(ty).0),
            },
        };
        // With `JobOutcome<Receipt>` the job is done with a receipt, or runs again.
        let decides = is_named(&output, "JobOutcome");
        let (resources, transaction) = parameters(sig, 1);
        let output = match argument(&output) {
            Some(done) if decides => done.clone(),
            _ => output,
        };
        Self {
            machine: options.machine.clone().or(machine),
            decides,
            flow: if decides {
                Flow::read(sig, &item.block, "")
            } else {
                Flow { edges: vec![Edge::Done], ..Flow::default() }
            },
            uses: uses(sig, &item.block, options.limit.as_ref()),
            state: state.unwrap_or_else(|| parse_quote!(())),
            resources,
            transaction,
            output,
            fallible,
            output_at,
            item,
        }
    }
}

impl Job {
    /// Finds the machine's twin: a type in the signature that has its name.
    pub(crate) fn twin(&self) -> Option<&Path> {
        let machine = self.machine.as_ref()?;
        // The whole return type is searched, also the error of a `Result`.
        let returned = match &self.item.sig.output {
            ReturnType::Type(_, ty) => Some(&**ty),
            ReturnType::Default => None,
        };
        let mut types = [&self.state].into_iter().chain(returned).chain(&self.resources);
        types.find_map(|ty| named(ty, machine))
    }

    /// True if the twin can implement what is generated for the machine. A type of the arguments or
    /// of the result can, unless std owns it. Elsewhere in the signature, it may be a trait.
    pub(crate) fn twin_stands_in(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| {
            let stored = [&self.state, &self.output];
            OF_STD.iter().all(|of_std| machine != of_std)
                && stored.into_iter().any(|ty| named(ty, machine).is_some())
        })
    }
}

/// Types of std that are in scope everywhere. A user's crate cannot implement the generated traits
/// for them.
const OF_STD: &[&str] = &["Box", "Option", "Result", "String", "Vec"];

/// Generic types that hold values of their type argument. Any other generic type may take a machine
/// as its argument, as `InstanceId` does.
const CONTAINERS: &[&str] = &[
    "Arc",
    "BTreeMap",
    "BTreeSet",
    "Box",
    "HashMap",
    "HashSet",
    "JobOutcome",
    "Option",
    "Result",
    "Vec",
    "VecDeque",
];

/// Finds a type of this name in `ty`, if the module at hand is the one that names it: `Mail` or
/// `self::Mail`, but not `arguments::Mail`.
fn named<'a>(ty: &'a Type, name: &Ident) -> Option<&'a Path> {
    match ty {
        Type::Path(path) => named_path(&path.path, name),
        Type::Group(group) => named(&group.elem, name),
        Type::Paren(paren) => named(&paren.elem, name),
        Type::Array(array) => named(&array.elem, name),
        Type::Slice(slice) => named(&slice.elem, name),
        Type::Reference(reference) => named(&reference.elem, name),
        Type::Tuple(tuple) => tuple.elems.iter().find_map(|ty| named(ty, name)),
        // Traits and types share one namespace.
        Type::TraitObject(object) => object.bounds.iter().find_map(|bound| match bound {
            TypeParamBound::Trait(bound) => named_path(&bound.path, name),
            _ => None,
        }),
        _ => None,
    }
}

fn named_path<'a>(path: &'a Path, name: &Ident) -> Option<&'a Path> {
    let segments: Vec<_> = path.segments.iter().collect();
    let here = match segments[..] {
        [_] => path.leading_colon.is_none(),
        [module, _] => module.ident == "self",
        _ => false,
    };
    let last = segments.last()?;
    if here && last.ident == *name {
        return Some(path);
    }
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    if CONTAINERS.iter().all(|of| last.ident != of) {
        return None;
    }
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => named(ty, name),
        _ => None,
    })
}

/// Returns the type of the value in a `Result`, whatever the error; none for another type.
pub(crate) fn result_of(ty: &Type) -> Option<&Type> {
    is_named(ty, "Result").then(|| argument(ty)).flatten()
}

/// The first type argument of a type.
fn argument(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let PathArguments::AngleBracketed(arguments) = &path.path.segments.last()?.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// The types behind the references among a function's parameters, after the first `skip`, and the
/// place of the transaction among them.
fn parameters(sig: &Signature, skip: usize) -> (Vec<Type>, Option<usize>) {
    let (mut resources, mut transaction) = (Vec::new(), None);
    for input in sig.inputs.iter().skip(skip) {
        let FnArg::Typed(input) = input else { continue };
        let Type::Reference(reference) = &*input.ty else { continue };
        if is_transaction(reference) {
            transaction.get_or_insert(resources.len());
        } else {
            resources.push((*reference.elem).clone());
        }
    }
    (resources, transaction)
}

/// True if a parameter of this type is the step's transaction: `&mut PgConnection`.
pub(crate) fn is_transaction(reference: &TypeReference) -> bool {
    reference.mutability.is_some() && is_named(&reference.elem, "PgConnection")
}

/// The spans of the first and of the last token. Spans cannot be joined on a stable compiler.
pub(crate) fn ends(tokens: &impl ToTokens) -> (Span, Span) {
    let mut spans = tokens.to_token_stream().into_iter().map(|token| token.span());
    let first = spans.next().unwrap_or_else(Span::call_site);
    (first, spans.last().unwrap_or(first))
}

/// The functions of an impl block.
pub(crate) fn functions(item: &ItemImpl) -> impl Iterator<Item = &ImplItemFn> {
    item.items.iter().filter_map(|item| match item {
        ImplItem::Fn(function) => Some(function),
        _ => None,
    })
}

/// Returns why a function is no step; none if it is one.
pub(crate) fn why_not(function: &ImplItemFn) -> Option<WhyNot> {
    let Some(FnArg::Typed(first)) = function.sig.inputs.first() else {
        return Some(WhyNot::NoContext);
    };
    match &*first.ty {
        Type::Reference(reference) if is_named(&reference.elem, "Context") => {
            Some(WhyNot::Borrowed)
        }
        ty if !is_named(ty, "Context") => Some(WhyNot::NoContext),
        _ if function.sig.asyncness.is_none() => Some(WhyNot::NotAsync),
        _ => None,
    }
}

/// True if a type's path ends with this name.
pub(crate) fn is_named(ty: &Type, name: &str) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == name),
        Type::Group(group) => is_named(&group.elem, name),
        Type::Paren(paren) => is_named(&paren.elem, name),
        _ => false,
    }
}

fn cfgs(attrs: &[Attribute]) -> Vec<Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("cfg")).cloned().collect()
}

/// The name of the generated function that sends a signal of this type. No function is generated
/// for a report, which has such a name all the same: it tells it apart from other signals.
pub(crate) fn signal_helper(signal: &Path) -> Option<Ident> {
    let last = signal.segments.last()?;
    let mut name = snake_case(&last.ident.unraw().to_string());
    if let Some(Type::Path(machine)) = ended(signal) {
        // Each machine has reports of its own, and no type's name begins like this.
        let path = machine.path.segments.iter().map(|segment| segment.ident.unraw().to_string());
        name = format!("_{name}_{}", path.collect::<Vec<_>>().join("__"));
    }
    Some(Ident::new(&format!("signal_{name}"), Span::call_site()))
}

/// The machine of which a signal reports the ends: `Parcel` of `Ended<Parcel>`.
pub(crate) fn ended(signal: &Path) -> Option<&Type> {
    let last = signal.segments.last().filter(|last| last.ident == "Ended")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(machine)) if arguments.args.len() == 1 => Some(machine),
        _ => None,
    }
}
