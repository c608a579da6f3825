//! The rules for a job: its signature, its context and its resources.

use quote::ToTokens;
use syn::{FnArg, Item, ReturnType, Safety, Type};

use super::handlers::{check_isolation, check_parameters};
use crate::{
    ast::{Job, is_named, result_of},
    attr::Isolation,
    errors::Errors,
};

/// Reports an item that is no function.
pub(crate) fn check_no_job(item: &Item, errors: &mut Errors) {
    let at = match item {
        Item::Struct(item) => item.ident.to_token_stream(),
        Item::Enum(item) => item.ident.to_token_stream(),
        Item::Mod(item) => item.ident.to_token_stream(),
        other => other.to_token_stream(),
    };
    errors.at(
        at,
        "`#[durable_job]` goes on an `async fn`; for an enum of steps and its impl block there is `#[durable_fsm]`",
    );
}

pub(crate) fn check_job(job: &Job, isolation: Option<&Isolation>, errors: &mut Errors) {
    let sig = &job.item.sig;
    let name = format!("the job `{}`", sig.ident);
    if sig.asyncness.is_none() {
        errors.at(sig.fn_token, format!("{name} must be async: write `async fn {}`", sig.ident));
    }
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
    if job.machine.is_none() {
        errors.at(
            &sig.ident,
            format!("{name} gives its machine its name in CamelCase, and of this none can be made: rename it"),
        );
    }
    if let (Some(machine), Some(twin)) = (&job.machine, job.twin()) {
        errors.at(
            twin,
            format!("{name} gives its machine the name `{machine}`, which a type in its signature already has: choose another name for the machine, with `#[durable_job(machine = {machine}Job)]`"),
        );
    }
    if let (Type::Tuple(state), Some(field)) = (&job.state, &job.uses.field)
        && state.elems.is_empty()
    {
        errors.at(
            &field.tokens,
            format!("{name} takes no arguments, and so no field `{}` in them: write `cx: JobContext<Mail>`, with a type that has the field and derives `DurableState`", field.name),
        );
    }
    for late in &job.uses.late {
        errors.at(&late.of.tokens, late.message());
    }
    check_context(job, &name, errors);
    check_output(&sig.output, &name, errors);
    check_parameters(sig, &name, 1, errors);
    check_isolation(isolation, job.transaction, &name, errors);
}

fn check_context(job: &Job, name: &str, errors: &mut Errors) {
    let sig = &job.item.sig;
    match sig.inputs.first() {
        Some(FnArg::Typed(first)) => match &*first.ty {
            ty if is_named(ty, "JobContext") => {}
            Type::Reference(reference) if is_named(&reference.elem, "JobContext") => errors.at(
                &first.ty,
                format!("{name} must own its context: write it without `&`"),
            ),
            ty if is_named(ty, "Context") => errors.at(
                ty,
                format!("{name} takes a `JobContext`: write `cx: JobContext<Mail>`, with the type of its arguments"),
            ),
            _ => errors.at(
                first,
                format!("{name} takes its context first: write `cx: JobContext<Mail>`, with the type of its arguments; resources stand behind it"),
            ),
        },
        Some(FnArg::Receiver(receiver)) => {
            errors.at(receiver, format!("{name} is a function and no method: remove `self`"));
        }
        None => errors.at(
            &sig.ident,
            format!("{name} takes its context: write `cx: JobContext<Mail>`, with the type of its arguments, or `cx: JobContext` if there are none"),
        ),
    }
}

fn check_output(output: &ReturnType, name: &str, errors: &mut Errors) {
    let ReturnType::Type(_, ty) = output else { return };
    if let Type::Path(path) = &**ty
        && path.path.segments.last().is_some_and(|last| last.ident == "Result")
        && result_of(ty).is_none()
    {
        errors.at(
            ty,
            format!(
                "{name} must say what it returns, as that is stored: write `Result<(), Error>`"
            ),
        );
    }
    if let Type::ImplTrait(opaque) = &**ty {
        errors.at(opaque, format!("{name} must name the type of its result, as that is stored"));
    }
}
