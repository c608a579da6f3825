//! The rules: what the compiler would not report, or not as well.
//!
//! Invariant: every message names the thing and says what to do; nothing is generated here.

use quote::ToTokens;
use syn::{Fields, FnArg, ImplItemFn, Type, ext::IdentExt, spanned::Spanned};

use crate::{
    ast::{MachineEnum, MachineImpl, Taken, context_of, functions, signal_helper},
    errors::Errors,
    names::{camel_case, nearest},
};

/// Names that the enum's expansion generates, beside `signal_<name>`.
const GENERATED: &[&str] = &["insert", "insert_many", "signal", "handle"];

pub(crate) fn check_enum(machine: &MachineEnum, errors: &mut Errors) {
    let item = &machine.item;
    if !item.generics.params.is_empty() {
        errors.at(
            &item.generics,
            "a machine cannot be generic: its name in the database stands for one type; write one enum for each",
        );
    }
    if item.variants.is_empty() {
        errors.at(&item.ident, format!("`{}` has no steps: add a variant for each", item.ident));
    }
    for variant in &item.variants {
        if !matches!(variant.fields, Fields::Unit) {
            errors.at(
                variant,
                format!(
                    "the step `{0}` carries fields: keep data in the state, and write `{0},`",
                    variant.ident
                ),
            );
        }
    }
    check_step_names(machine, errors);
    check_signals(machine, errors);
    if let Some(initial) = &machine.options.initial
        && !machine.steps.iter().any(|step| step.ident == *initial)
    {
        let names: Vec<String> = machine.steps.iter().map(|step| step.ident.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let hint = match nearest(&initial.to_string(), &names) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("the variants are {}", names.join(", ")),
        };
        errors.at(initial, format!("`{}` has no variant `{initial}`; {hint}", item.ident));
    }
}

fn check_step_names(machine: &MachineEnum, errors: &mut Errors) {
    let helpers: Vec<String> = machine
        .options
        .signals
        .iter()
        .filter_map(signal_helper)
        .map(|helper| helper.to_string())
        .collect();
    for (index, step) in machine.steps.iter().enumerate() {
        if GENERATED.contains(&step.name.as_str()) || helpers.contains(&step.name) {
            errors.at(
                &step.ident,
                format!(
                    "the step of `{}` would be called `{}`, a name that `#[durable_fsm]` generates or gives a meaning; rename the variant",
                    step.ident, step.name
                ),
            );
        }
        let twin = machine.steps[..index]
            .iter()
            .find(|other| other.name == step.name && other.ident != step.ident);
        if let Some(twin) = twin {
            errors.at(
                &step.ident,
                format!(
                    "`{}` and `{}` would both have the step `{}`; rename one of them",
                    twin.ident, step.ident, step.name
                ),
            );
        }
    }
}

fn check_signals(machine: &MachineEnum, errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for signal in &machine.options.signals {
        let text = signal.to_token_stream().to_string();
        let helper = signal_helper(signal).map(|helper| helper.to_string()).unwrap_or_default();
        if seen.contains(&helper) {
            errors.at(
                signal,
                format!(
                    "the signal `{text}`, or another of that name, is declared twice; keep one"
                ),
            );
        }
        seen.push(helper);
    }
}

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
        errors
            .at(&item.generics, "a machine cannot be generic; write one impl block for each enum");
    }
    let mut any = false;
    for function in functions(item) {
        let name = function.sig.ident.unraw().to_string();
        let taken = function.sig.inputs.first().and_then(context_of);
        if name == "handle" && taken.is_some() {
            check_handle(function, errors);
        }
        if let Some(taken) = taken {
            any = true;
            check_step(function, taken, &name, errors);
        } else if name == "handle" && function.sig.asyncness.is_some() {
            errors.at(
                &function.sig.ident,
                "`handle` takes the context and the error: `async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self>`",
            );
        }
    }
    if !any {
        errors.at(
            &item.self_ty,
            format!(
                "no step was found: write an `async fn` with a first parameter `cx: Context<Self>` for each variant of `{}`",
                machine.machine()
            ),
        );
    }
}

fn check_step(function: &ImplItemFn, taken: Taken, name: &str, errors: &mut Errors) {
    let sig = &function.sig;
    if taken == Taken::ByReference {
        errors.at(
            &sig.inputs[0],
            format!("the step `{name}` must own its context, as every outcome consumes it: write `cx: Context<Self>`"),
        );
    }
    if sig.asyncness.is_none() {
        errors
            .at(sig.fn_token, format!("the step `{name}` must be async: write `async fn {name}`"));
    }
    if !sig.generics.params.is_empty() {
        errors.at(
            &sig.generics,
            format!("the step `{name}` cannot be generic, lifetimes included: the engine calls it with what it has"),
        );
    }
    if let Some(constness) = &sig.constness {
        errors.at(constness, format!("the step `{name}` cannot be const; remove `const`"));
    }
    if let Some(abi) = &sig.abi {
        errors.at(abi, format!("the step `{name}` cannot be extern; remove it"));
    }
    if name != "handle" && (GENERATED.contains(&name) || name.starts_with("signal_")) {
        errors.at(
            &sig.ident,
            format!("a step cannot be called `{name}`, a name that `#[durable_fsm]` generates; rename it and its variant, now `{}`", camel_case(name)),
        );
    }
    if matches!(sig.output, syn::ReturnType::Default) {
        errors.at(
            &sig.ident,
            format!("the step `{name}` returns nothing: write `-> Outcome<Self>` or `-> StepResult<Self>`"),
        );
    }
    let resources = if name == "handle" { 2 } else { 1 };
    for input in sig.inputs.iter().skip(resources) {
        check_resource(input, name, errors);
    }
}

fn check_resource(input: &FnArg, step: &str, errors: &mut Errors) {
    let FnArg::Typed(input) = input else { return };
    match &*input.ty {
        Type::Reference(reference) => {
            if reference.mutability.is_some() {
                errors.at(
                    &input.ty,
                    format!(
                        "a resource is shared by all steps that run: take `&{}`, and put what changes behind a lock",
                        reference.elem.to_token_stream()
                    ),
                );
            }
            if let Some(lifetime) = &reference.lifetime {
                errors.at(
                    lifetime,
                    format!(
                        "remove the lifetime: the step `{step}` borrows the resource while it runs"
                    ),
                );
            }
            if let Type::ImplTrait(opaque) = &*reference.elem {
                errors.at(opaque, "a resource is found by its type: name one type");
            }
        }
        ty => {
            let text = ty.to_token_stream().to_string();
            errors.push(syn::Error::new(
                ty.span(),
                format!("the step `{step}` takes a resource by value, but the engine keeps it for all: write `&{text}`"),
            ));
        }
    }
}

fn check_handle(function: &ImplItemFn, errors: &mut Errors) {
    let second = function.sig.inputs.iter().nth(1);
    let is_error =
        matches!(second, Some(FnArg::Typed(input)) if !matches!(&*input.ty, Type::Reference(_)));
    if !is_error {
        errors.at(
            &function.sig.ident,
            "`handle` takes the error by value after the context: `async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self>`",
        );
    }
}
