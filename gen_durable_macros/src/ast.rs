//! What the macros read: an enum of steps, an impl block of step functions, a type to store.
//!
//! Invariant: the model borrows the user's syntax and keeps its spans; a mistake is recorded and
//! reading goes on.

use proc_macro2::{Ident, Span};
use syn::{
    Attribute, FnArg, ImplItem, ImplItemFn, ItemEnum, ItemImpl, Path, Type, TypeReference,
    ext::IdentExt, parse_quote,
};

use crate::{attr::MachineOptions, names::snake_case};

/// The enum: the specification of a machine.
pub(crate) struct MachineEnum {
    pub(crate) item: ItemEnum,
    pub(crate) options: MachineOptions,
    pub(crate) steps: Vec<Variant>,
}

/// A variant: a step.
pub(crate) struct Variant {
    pub(crate) ident: Ident,
    /// The step's name, as it is stored and as its function is called.
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

    /// Where `gen_durable` is.
    pub(crate) fn krate(&self) -> Path {
        krate(self.options.krate.as_ref())
    }
}

/// The impl block: the behaviour of a machine.
pub(crate) struct MachineImpl {
    pub(crate) item: ItemImpl,
    pub(crate) krate: Path,
    pub(crate) steps: Vec<StepFn>,
    pub(crate) handle: Option<StepFn>,
}

/// A function that is a step, or `handle`.
pub(crate) struct StepFn {
    pub(crate) ident: Ident,
    pub(crate) name: String,
    /// The types behind the references that follow the context.
    pub(crate) resources: Vec<Type>,
    pub(crate) cfgs: Vec<Attribute>,
}

impl MachineImpl {
    pub(crate) fn new(item: ItemImpl, krate_option: Option<&Path>) -> Self {
        let mut steps = Vec::new();
        let mut handle = None;
        for function in functions(&item) {
            let first = function.sig.inputs.first();
            if first.is_none_or(|first| context_of(first).is_none()) {
                continue;
            }
            if function.sig.ident == "handle" {
                handle = Some(StepFn::new(function, 2));
            } else {
                steps.push(StepFn::new(function, 1));
            }
        }
        Self { krate: krate(krate_option), item, steps, handle }
    }

    /// The machine's name, as the user wrote it.
    pub(crate) fn machine(&self) -> String {
        match &*self.item.self_ty {
            Type::Path(path) => path
                .path
                .segments
                .last()
                .map_or_else(|| "Self".to_owned(), |segment| segment.ident.to_string()),
            _ => "Self".to_owned(),
        }
    }
}

impl StepFn {
    fn new(function: &ImplItemFn, skip: usize) -> Self {
        let resources = function.sig.inputs.iter().skip(skip).filter_map(|input| match input {
            FnArg::Typed(input) => match &*input.ty {
                Type::Reference(TypeReference { elem, .. }) => Some((**elem).clone()),
                _ => None,
            },
            FnArg::Receiver(_) => None,
        });
        Self {
            ident: function.sig.ident.clone(),
            name: function.sig.ident.unraw().to_string(),
            resources: resources.collect(),
            cfgs: cfgs(&function.attrs),
        }
    }
}

/// The functions of an impl block.
pub(crate) fn functions(item: &ItemImpl) -> impl Iterator<Item = &ImplItemFn> {
    item.items.iter().filter_map(|item| match item {
        ImplItem::Fn(function) => Some(function),
        _ => None,
    })
}

/// How a parameter takes a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    ByValue,
    ByReference,
}

/// Whether a parameter is a `Context<…>`, and how it is taken.
pub(crate) fn context_of(input: &FnArg) -> Option<Taken> {
    let FnArg::Typed(input) = input else { return None };
    match &*input.ty {
        Type::Reference(TypeReference { elem, .. }) => {
            is_named(elem, "Context").then_some(Taken::ByReference)
        }
        ty => is_named(ty, "Context").then_some(Taken::ByValue),
    }
}

/// Whether a type's path ends with this name.
fn is_named(ty: &Type, name: &str) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == name),
        Type::Group(group) => is_named(&group.elem, name),
        Type::Paren(paren) => is_named(&paren.elem, name),
        _ => false,
    }
}

/// The path to `gen_durable`.
pub(crate) fn krate(option: Option<&Path>) -> Path {
    option.cloned().unwrap_or_else(|| parse_quote!(::gen_durable))
}

fn cfgs(attrs: &[Attribute]) -> Vec<Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("cfg")).cloned().collect()
}

/// The name of the helper that sends a signal of this type.
pub(crate) fn signal_helper(signal: &Path) -> Option<Ident> {
    let last = signal.segments.last()?;
    let name = snake_case(&last.ident.unraw().to_string());
    Some(Ident::new(&format!("signal_{name}"), Span::call_site()))
}
