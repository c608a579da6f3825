//! The rules for the impl block: its steps, their resources, and `handle`.

use syn::{
    FnArg, GenericArgument, ImplItemFn, PathArguments, ReturnType, Safety, Signature, Type,
    TypeReference, ext::IdentExt, spanned::Spanned,
};

use crate::{
    ast::{MachineImpl, WhyNot, functions, is_named, is_transaction, why_not},
    attr::{Isolation, is_step},
    errors::Errors,
    names::compact,
};

pub(crate) fn check_impl(machine: &MachineImpl, errors: &mut Errors) {
    let item = &machine.item;
    if let Some((path, _)) = &item.trait_ {
        errors.at(
            path,
            "`#[durable_fsm]` goes on the inherent impl block that holds the steps, not on the impl of a trait",
        );
        return;
    }
    if !item.generics.params.is_empty() {
        errors.at(
            &item.generics,
            "a machine cannot be generic: remove the parameters, and write an impl block for each enum",
        );
    }
    for step in machine.steps.iter().filter(|_| machine.handle.is_some()) {
        if let Some(retry) = &step.options.retry {
            errors.push(syn::Error::new(
                retry.at,
                "`retry` stands in for `handle`, and this machine has one: remove `retry`, or call `Retry::decide` in `handle`",
            ));
        }
    }
    for step in machine.steps.iter().chain(&machine.handle) {
        let isolation = step.options.isolation.as_ref();
        let name = match &*step.name {
            "handle" => "`handle`".to_owned(),
            name => format!("the step `{name}`"),
        };
        check_isolation(isolation, step.transaction, &name, errors);
    }
    for late in machine.steps.iter().chain(&machine.handle).flat_map(|step| &step.uses.late) {
        errors.at(&late.of.tokens, late.message());
    }
    for function in functions(item) {
        let name = function.sig.ident.unraw().to_string();
        if name == "handle" {
            check_handle(function, errors);
        } else if why_not(function) == Some(WhyNot::NoContext) {
            for attr in function.attrs.iter().filter(|attr| is_step(attr)) {
                errors.at(
                    attr,
                    format!("`#[step(…)]` goes on a step, and `{name}` is none: write `async fn {name}(cx: Context<Self>)`"),
                );
            }
        } else if why_not(function).is_none() {
            check_step(function, &format!("the step `{name}`"), 1, errors);
        }
    }
}

/// Checks the rules that steps and `handle` share. The first `skip` parameters are no resources.
fn check_step(function: &ImplItemFn, name: &str, skip: usize, errors: &mut Errors) {
    let sig = &function.sig;
    if !sig.generics.params.is_empty() {
        errors.at(
            &sig.generics,
            format!("{name} cannot be generic, lifetimes included, as the engine calls it with what it has: remove the parameters"),
        );
    }
    if let Safety::Unsafe(token) = &sig.safety {
        errors.at(
            token,
            format!("{name} is called by the engine and cannot be unsafe: remove `unsafe`"),
        );
    }
    if returns_nothing(&sig.output) {
        let message = format!(
            "{name} returns nothing: write `-> Outcome<Self>` or `-> StepResult<Self>`, and return what a method of `cx` makes"
        );
        match &sig.output {
            ReturnType::Default => errors.at(&sig.ident, message),
            ReturnType::Type(_, ty) => errors.at(ty, message),
        }
    }
    check_parameters(sig, name, skip, errors);
}

/// Checks the parameters after the first `skip`: resources, and a transaction at most.
pub(super) fn check_parameters(sig: &Signature, name: &str, skip: usize, errors: &mut Errors) {
    let mut transactions = 0;
    for input in sig.inputs.iter().skip(skip) {
        match transaction(input) {
            Some(reference) => {
                transactions += 1;
                check_transaction(reference, name, transactions, errors);
            }
            None => check_resource(input, name, errors),
        }
    }
}

/// The parameter's type, if it is the step's transaction.
fn transaction(input: &FnArg) -> Option<&TypeReference> {
    let FnArg::Typed(input) = input else { return None };
    match &*input.ty {
        Type::Reference(reference) => is_transaction(reference).then_some(reference),
        _ => None,
    }
}

fn check_transaction(
    reference: &TypeReference,
    name: &str,
    transactions: u32,
    errors: &mut Errors,
) {
    if transactions > 1 {
        errors.at(
            reference,
            format!("{name} runs in one transaction: remove the second `&mut PgConnection`"),
        );
    }
    if let Some(lifetime) = &reference.lifetime {
        errors.at(
            lifetime,
            format!(
                "{name} borrows its transaction while it runs: write `&mut PgConnection` without `{lifetime}`"
            ),
        );
    }
}

/// Reports an isolation level of code that takes no transaction.
pub(super) fn check_isolation(
    isolation: Option<&Isolation>,
    transaction: Option<usize>,
    name: &str,
    errors: &mut Errors,
) {
    if let (Some(isolation), None) = (isolation, transaction) {
        errors.push(syn::Error::new(
            isolation.at,
            format!("{name} takes no transaction, and so has no isolation level: add the parameter `tx: &mut PgConnection`, or remove `isolation`"),
        ));
    }
}

fn returns_nothing(output: &ReturnType) -> bool {
    match output {
        ReturnType::Default => true,
        ReturnType::Type(_, ty) => matches!(&**ty, Type::Tuple(tuple) if tuple.elems.is_empty()),
    }
}

fn check_resource(input: &FnArg, step: &str, errors: &mut Errors) {
    let FnArg::Typed(input) = input else { return };
    let Type::Reference(reference) = &*input.ty else {
        let text = compact(&input.ty);
        errors.at(
            &input.ty,
            format!("{step} takes a resource by value, but the engine keeps it for all steps: write `&{text}`"),
        );
        return;
    };
    let (ty, text) = (&*reference.elem, compact(&reference.elem));
    if is_named(ty, "PgConnection") {
        errors
            .at(reference, format!("{step} takes its transaction by `&mut`: write `&mut {text}`"));
        return;
    }
    if let Some(mutability) = &reference.mutability {
        let message = if is_named(ty, "Transaction") || is_named(ty, "PgTransaction") {
            "`&mut` is for the transaction of a step, which the engine commits: write `&mut PgConnection`".to_owned()
        } else {
            format!(
                "`&mut` is for the transaction of a step alone, `&mut PgConnection`; a resource is shared by all steps that run: write `&{text}`, and put what changes behind a lock"
            )
        };
        errors.at(mutability, message);
    }
    if let Some(lifetime) = &reference.lifetime {
        errors.at(
            lifetime,
            format!(
                "{step} borrows its resource while it runs: write `&{text}` without `{lifetime}`"
            ),
        );
    }
    if let Some(sized) = sized(ty) {
        errors.at(
            ty,
            format!("a resource is kept by its type, which must have a size: write `&{sized}`, and give the engine that"),
        );
    }
    if let Type::ImplTrait(opaque) = ty {
        errors.at(
            opaque,
            format!("a resource is found by its type, and `{text}` may be many: name the one type"),
        );
    }
    if let Some(borrow) = borrow(ty) {
        errors.push(syn::Error::new(
            borrow,
            format!("the resource `{text}` borrows, but the engine keeps it as long as it runs: use a type that owns its data"),
        ));
    }
}

/// The type to use instead of a type without a size; none if `ty` has a size.
fn sized(ty: &Type) -> Option<String> {
    match ty {
        Type::Paren(paren) => sized(&paren.elem),
        Type::Path(path) if path.path.is_ident("str") => Some("String".to_owned()),
        Type::Slice(slice) => Some(format!("Vec<{}>", compact(&slice.elem))),
        Type::TraitObject(object) => Some(format!("Arc<{}>", compact(object))),
        _ => None,
    }
}

/// The place at which a type borrows for less than `'static`, as far as its tokens show it.
fn borrow(ty: &Type) -> Option<proc_macro2::Span> {
    match ty {
        Type::Reference(reference) => match &reference.lifetime {
            Some(lifetime) if lifetime.ident == "static" => borrow(&reference.elem),
            Some(lifetime) => Some(lifetime.span()),
            None => Some(reference.and_token.span()),
        },
        Type::Path(path) => path.path.segments.iter().find_map(|segment| {
            let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
            arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Lifetime(lifetime) if lifetime.ident != "static" => {
                    Some(lifetime.span())
                }
                GenericArgument::Type(ty) => borrow(ty),
                _ => None,
            })
        }),
        Type::Tuple(tuple) => tuple.elems.iter().find_map(borrow),
        Type::Array(array) => borrow(&array.elem),
        Type::Paren(paren) => borrow(&paren.elem),
        Type::Group(group) => borrow(&group.elem),
        _ => None,
    }
}

const HANDLE: &str = "async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self>";

fn check_handle(function: &ImplItemFn, errors: &mut Errors) {
    let sig = &function.sig;
    if sig.receiver().is_some() {
        // This is a method of the user's own, and cannot be meant as the machine's `handle`.
        return;
    }
    match why_not(function) {
        Some(WhyNot::NoContext) => {
            let message = format!("`handle` takes the context and the error: write `{HANDLE}`");
            match sig.inputs.first() {
                Some(first) => errors.at(first, message),
                None => errors.at(&sig.ident, message),
            }
            return;
        }
        Some(WhyNot::Borrowed) => {
            errors.at(&sig.inputs[0], format!("`handle` must own its context: write `{HANDLE}`"));
        }
        Some(WhyNot::NotAsync) => {
            errors.at(sig.fn_token, format!("`handle` must be async: write `{HANDLE}`"));
        }
        None => {}
    }
    match sig.inputs.iter().nth(1) {
        Some(FnArg::Typed(input)) if is_named(&input.ty, "StepError") => {}
        Some(input) => errors.at(
            input,
            format!("`handle` takes the error by value after the context: write `{HANDLE}`"),
        ),
        None => errors.at(
            &sig.ident,
            format!("`handle` takes the error after the context: write `{HANDLE}`"),
        ),
    }
    check_step(function, "`handle`", 2, errors);
}
