//! The rules that the compiler would not check, or whose errors would be less clear.
//!
//! Invariant: every message names its subject and says what to do. Nothing is generated here.
//! Constants of the expansion check the rules that need both the enum and the impl block.

mod handlers;
mod job;
mod schedule;
mod stored;
mod test_fn;

use quote::ToTokens;
use syn::{Fields, Ident, Item, ext::IdentExt};

pub(crate) use self::{
    handlers::check_impl,
    job::{check_job, check_no_job},
    schedule::{IS_ENABLED, check_schedule},
    stored::{check_signal, check_state},
    test_fn::{check_no_test, check_test},
};
use crate::{
    ast::{MachineEnum, signal_helper},
    attr::is_step,
    errors::Errors,
    names::{camel_case, compact, function_name, nearest},
};

/// Reports an item that is neither an enum nor an impl block.
pub(crate) fn check_other(item: &Item, errors: &mut Errors) {
    let (what, at) = match item {
        Item::Struct(item) => ("a struct", item.ident.to_token_stream()),
        Item::Union(item) => ("a union", item.ident.to_token_stream()),
        Item::Fn(item) => {
            errors.at(
                &item.sig.ident,
                "`#[durable_fsm]` goes on the enum of steps and on its impl block; for a function there is `#[durable_job]`",
            );
            return;
        }
        Item::Mod(item) => ("a module", item.ident.to_token_stream()),
        Item::Trait(item) => ("a trait", item.ident.to_token_stream()),
        other => ("this", other.to_token_stream()),
    };
    errors.at(
        at,
        format!("`#[durable_fsm]` goes on the enum of steps and on its impl block, not on {what}"),
    );
}

pub(crate) fn check_enum(machine: &MachineEnum, errors: &mut Errors) {
    let item = &machine.item;
    if !item.generics.params.is_empty() {
        errors.at(
            &item.generics,
            format!(
                "the machine `{}` cannot be generic, as its name in the database stands for one type: write an enum for each",
                item.ident
            ),
        );
    }
    if item.variants.is_empty() {
        errors.at(&item.ident, format!("`{}` has no steps: add a variant for each", item.ident));
    }
    for (variant, step) in item.variants.iter().zip(&machine.steps) {
        for attr in variant.attrs.iter().filter(|attr| is_step(attr)) {
            errors.at(
                attr,
                format!(
                    "`#[step(…)]` goes on the step's function, not on its variant: put it on `async fn {}`",
                    step.name
                ),
            );
        }
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
    check_variant(machine, machine.options.initial.as_ref(), errors);
    check_variant(machine, machine.options.on_cancel.as_ref(), errors);
}

/// Checks that an option names a variant.
fn check_variant(machine: &MachineEnum, wanted: Option<&Ident>, errors: &mut Errors) {
    let Some(variant) = wanted else { return };
    if machine.steps.is_empty() || machine.steps.iter().any(|step| step.ident == *variant) {
        return;
    }
    let names: Vec<String> = machine.steps.iter().map(|step| step.ident.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = match nearest(&variant.to_string(), &names) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("the variants are `{}`", names.join("`, `")),
    };
    errors.at(variant, format!("`{}` has no variant `{variant}`; {hint}", machine.item.ident));
}

fn check_step_names(machine: &MachineEnum, errors: &mut Errors) {
    for (index, step) in machine.steps.iter().enumerate() {
        let (ident, name) = (&step.ident, &step.name);
        if let Some(what) = machine.taken(name) {
            errors.at(
                ident,
                format!("the step of `{ident}` would be called `{name}`, which is {what}; rename the variant"),
            );
        }
        if ident.unraw() == name {
            let hint = match camel_case(name) {
                camel if camel != *name => format!("write `{camel}`"),
                _ => "begin it with a capital letter, such as `Do`".to_owned(),
            };
            errors.at(
                ident,
                format!("the variant `{ident}` and its step would have one name, which Rust takes for the variant; {hint}"),
            );
        }
        if function_name(name).is_none() {
            errors.at(
                ident,
                format!("the step of `{ident}` would be called `{name}`, which no function can be; rename the variant"),
            );
        }
        let twin = machine.steps[..index]
            .iter()
            .find(|other| other.name == *name && other.ident != *ident);
        if let Some(twin) = twin {
            errors.at(
                ident,
                format!(
                    "`{}` and `{ident}` would both have the step `{name}`; rename one of them",
                    twin.ident
                ),
            );
        }
    }
}

fn check_signals(machine: &MachineEnum, errors: &mut Errors) {
    let signals = &machine.options.signals;
    for (index, signal) in signals.iter().enumerate() {
        let helper = signal_helper(signal);
        let Some(twin) = signals[..index].iter().find(|other| signal_helper(other) == helper)
        else {
            continue;
        };
        let (twin, text) = (compact(twin), compact(signal));
        errors.at(
            signal,
            if twin == text {
                format!("the signal `{text}` is declared twice; remove one")
            } else {
                format!(
                    "the signals `{twin}` and `{text}` would have one name; rename one of the types"
                )
            },
        );
    }
}
