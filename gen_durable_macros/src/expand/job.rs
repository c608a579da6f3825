//! A job's expansion: the user's function as it stands, and a machine of one step that calls it.
//!
//! Invariant: the machine is an enum and an impl block, as `#[durable_fsm]` takes them, and is
//! expanded like these.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{ItemEnum, ItemFn, ItemImpl, LitStr, Visibility, parse_quote, parse_quote_spanned};

use super::{duration, handlers, import::alias, private_at, steps};
use crate::{
    ast::{Job, MachineEnum, MachineImpl, ends},
    attr::{MachineOptions, Missed, Text},
    errors::Errors,
};

pub(super) fn expand(job: &Job, options: MachineOptions, correct: bool) -> TokenStream {
    let function = function(&job.item);
    let Some(machine) = &job.machine else { return quote!(#function) };
    if job.twin().is_some() && !job.twin_stands_in() {
        return quote!(#function);
    }
    let item = enum_item(job, machine);
    let block = impl_item(job, machine, &options, correct);
    let mut errors = Errors::default();
    let mut block = MachineImpl::new(block, &mut errors);
    block.import = alias();
    // The generated block has no mistakes of its own. Its body only calls the user's function, so
    // the ways out of the step are those that were read from the function.
    errors.discard();
    block.schedule = schedule(job, &options);
    for step in &mut block.steps {
        step.flow = job.flow.clone();
        step.options.limit.clone_from(&options.limit);
    }
    let block = handlers::items(&block, correct);
    let machine = MachineEnum::new(item, with_types(job, options));
    let generated = steps::generated(&machine, correct, &block);
    // If a type in the signature has the machine's name, this type stands in for the machine: the
    // compiler then reports no use of the name.
    let item = job.twin().is_none().then(|| visible(&machine.item));
    quote!(#function #item #generated)
}

/// The function as it stands, but Clippy accepts that it awaits nothing: the engine requires that
/// it is async.
fn function(item: &ItemFn) -> ItemFn {
    let mut item = item.clone();
    item.attrs.push(parse_quote!(#[allow(clippy::unused_async)]));
    item
}

/// The machine's enum, with the documentation of the function.
fn enum_item(job: &Job, machine: &Ident) -> ItemEnum {
    let vis = &job.item.vis;
    let docs = job.item.attrs.iter().filter(|attr| attr.path().is_ident("doc"));
    let about = format!(" The machine of the job [`{}`], and as visible.", job.item.sig.ident);
    let blank = job.item.attrs.iter().any(|attr| attr.path().is_ident("doc"));
    let blank = blank.then(|| quote!(#[doc = ""]));
    parse_quote! {
        #(#docs)*
        #blank
        #[doc = #about]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #vis enum #machine {
            /// Runs the function.
            Run,
        }
    }
}

/// The machine's enum, which is as visible as the function. If this is not everywhere, a macro
/// makes the enum. The macro's name says why code elsewhere cannot use the machine: the compiler
/// shows it there, with its error.
fn visible(item: &ItemEnum) -> TokenStream {
    if matches!(item.vis, Visibility::Public(_)) {
        return item.to_token_stream();
    }
    quote! {
        macro_rules! the_machine_is_as_visible_as_its_function {
            () => {
                #item
            };
        }
        the_machine_is_as_visible_as_its_function! {}
    }
}

/// The impl block with the step that calls the function. It has the span of the function's name, so
/// that the compiler reports errors there.
fn impl_item(job: &Job, machine: &Ident, options: &MachineOptions, correct: bool) -> ItemImpl {
    let at = job.item.sig.ident.span();
    let run = Ident::new("run", at);
    let private = private_at(&alias(), at);
    let function = &job.item.sig.ident;
    if !correct {
        return parse_quote! {
            impl #machine {
                async fn #run(_: #private::Context<Self>) -> #private::StepResult<Self> {
                    ::core::panic!("the job has mistakes")
                }
            }
        };
    }
    // To the compiler, all of it is the user's code, also local names: see `handlers::local`.
    let mut names = Vec::new();
    let mut types = Vec::new();
    for (index, resource) in job.resources.iter().enumerate() {
        names.push(format_ident!("resource_{index}", span = at));
        types.push(quote!(&#resource));
    }
    let isolation = job.transaction.map(|place| {
        names.insert(place, Ident::new("tx", at));
        types.insert(place, quote_spanned!(at=> &mut #private::PgConnection));
        let level = options.isolation.as_ref().map_or("read committed", |isolation| isolation.text);
        quote!(#[step(isolation = #level)])
    });
    // The compiler reports a wrong return type at the type itself.
    let returned = quote_spanned!(job.output_at.resolved_at(at)=> returned);
    let output = if job.fallible {
        quote_spanned!(at=> #private::IntoJobResult::into_job_result(#returned)?)
    } else {
        returned.clone()
    };
    let end = Ident::new(if job.decides { "decide" } else { "done" }, at);
    parse_quote_spanned! {at=>
        #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
        impl #machine {
            #isolation
            async fn #run(
                cx: #private::Context<Self>
                #(, #names: #types)*
            ) -> #private::StepResult<Self> {
                let (job, end) = #private::job(cx);
                let #returned = #function(job #(, #names)*).await;
                #private::Ok(end.#end(#output))
            }
        }
    }
}

/// The function that states the job's schedule, if it has one. The compiler reports arguments that
/// cannot be made of a tick at their type.
fn schedule(job: &Job, options: &MachineOptions) -> Option<TokenStream> {
    let options = &options.schedule;
    let private = alias();
    let times = match (&options.cron, &options.every) {
        (Some(cron), _) => quote!(cron(#cron)),
        (None, Some((_, every))) => {
            let every = duration(*every, &private);
            quote!(every(#every))
        }
        (None, None) => return None,
    };
    let zone = options.zone.as_ref().map(|zone| quote!(.zone(#zone)));
    let missed = options.missed.map(|(_, missed)| match missed {
        Missed::Skip => quote!(.missed(#private::Missed::Skip)),
        Missed::Once => quote!(.missed(#private::Missed::Once)),
        Missed::All(max) => quote!(.missed(#private::Missed::All { max: #max })),
    });
    let overlap = options.overlap.map(|(_, overlap)| {
        let overlap = format_ident!("{overlap}");
        quote!(.overlap(#private::Overlap::#overlap))
    });
    let (begin, end) = ends(&job.state);
    let at = private_at(&private, begin);
    let made = quote_spanned!(end=> (tick));
    let state = &job.state;
    let made = quote_spanned!(begin=> <#state as #at::FromTick>::from_tick #made);
    Some(quote! {
        fn schedule() -> #private::Option<#private::Scheduled<Self>> {
            #private::Some(#private::Scheduled {
                schedule: #private::Schedule::#times #zone #missed #overlap,
                insert: |tick| #private::Insert::new(#made),
            })
        }
    })
}

/// The options, completed by the function's signature: the name, the state and the output.
fn with_types(job: &Job, mut options: MachineOptions) -> MachineOptions {
    let name = syn::ext::IdentExt::unraw(&job.item.sig.ident).to_string();
    let name = LitStr::new(&name, job.item.sig.ident.span());
    options.name.get_or_insert(Text::Literal(name));
    options.state = Some(job.state.clone());
    options.output = Some(job.output.clone());
    options
}
