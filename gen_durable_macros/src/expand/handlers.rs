//! The impl block's expansion: `impl Steps`, and the check that each step has its variant.
//!
//! Invariant: the block is emitted as it stands, bodies untouched; a step's own errors (a future that is not `Send`, a
//! wrong return type) are reported at the step's name.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{ImplItem, ItemImpl, parse_quote};

use crate::{
    ast::{MachineImpl, StepFn, context_of},
    names::camel_case,
};

pub(crate) fn expand(machine: &MachineImpl, correct: bool) -> TokenStream {
    let item = &machine.item;
    if item.trait_.is_some() || !item.generics.params.is_empty() {
        return quote!(#item);
    }
    let item = with_lints(machine);
    let functions = step_functions(machine);
    let steps = if correct { steps(machine) } else { stub(machine) };
    let checks = if correct { checks(machine) } else { TokenStream::new() };
    quote!(#item #functions #steps #checks)
}

/// The block as it stands, but that a step need not await: it is async because the engine says so.
fn with_lints(machine: &MachineImpl) -> ItemImpl {
    let mut item = machine.item.clone();
    for item in &mut item.items {
        if let ImplItem::Fn(function) = item
            && function.sig.inputs.first().is_some_and(|first| context_of(first).is_some())
        {
            function.attrs.push(parse_quote!(#[allow(clippy::unused_async)]));
        }
    }
    item
}

fn step_functions(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let ty = &machine.item.self_ty;
    let cfgs = machine.steps.iter().map(|step| &step.cfgs);
    let names = machine.steps.iter().map(|step| &step.name);
    quote! {
        #[automatically_derived]
        impl #private::StepFunctions for #ty {
            const NAMES: &'static [&'static #private::str] = &[#(#(#cfgs)* #names),*];
        }
    }
}

fn steps(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let ty = &machine.item.self_ty;
    let arms = machine.steps.iter().map(|step| {
        let (cfgs, name) = (&step.cfgs, &step.name);
        let call = call(machine, step, &quote!(cx));
        quote!(#(#cfgs)* #name => #call,)
    });
    let handle = machine.handle.as_ref().map(|handle| {
        let cfgs = &handle.cfgs;
        let call = call(machine, handle, &quote!(cx, error));
        quote! {
            #(#cfgs)*
            fn handle<'a>(
                cx: #private::Context<Self>,
                error: #private::StepError,
                resources: &'a #private::Resources,
            ) -> #private::StepFuture<'a, Self> {
                let _ = resources;
                #call
            }
        }
    });
    let requirements = requirements(machine);
    quote! {
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
        impl #private::Steps for #ty {
            // The names are those of the variants: each variant is checked to have a step, and each
            // step to have a variant, when the constants beside the two expansions are evaluated.
            fn run<'a>(
                self,
                cx: #private::Context<Self>,
                resources: &'a #private::Resources,
            ) -> #private::StepFuture<'a, Self> {
                let _ = resources;
                match #private::Machine::name(&self) {
                    #(#arms)*
                    _ => ::core::unreachable!(),
                }
            }

            #handle

            #requirements
        }
    }
}

/// The boxed call of a step. It carries the span of the step's name: whatever the compiler has to
/// say of it, it says there.
fn call(machine: &MachineImpl, step: &StepFn, arguments: &TokenStream) -> TokenStream {
    let private = private(machine);
    let ident = &step.ident;
    let resources = &step.resources;
    quote_spanned! {ident.span()=>
        #private::Box::pin(async move {
            #private::IntoStepResult::<Self>::into_step_result(
                Self::#ident(#arguments #(, resources.get::<#resources>())*).await
            )
        })
    }
}

fn requirements(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let functions = machine.steps.iter().chain(&machine.handle);
    let requirements: Vec<_> = functions
        .flat_map(|step| {
            let private = &private;
            step.resources.iter().map(move |resource| {
                let (cfgs, name) = (&step.cfgs, &step.name);
                quote_spanned!(step.ident.span()=>
                    #(#cfgs)* #private::Requirement::of::<#resource>(#name)
                )
            })
        })
        .collect();
    if requirements.is_empty() {
        return TokenStream::new();
    }
    quote! {
        fn requirements() -> #private::Vec<#private::Requirement> {
            #private::Vec::from([#(#requirements),*])
        }
    }
}

/// Keeps the compiler from reporting what follows from the mistakes that were found.
fn stub(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let ty = &machine.item.self_ty;
    quote! {
        #[automatically_derived]
        impl #private::Steps for #ty {
            fn run<'a>(
                self,
                _: #private::Context<Self>,
                _: &'a #private::Resources,
            ) -> #private::StepFuture<'a, Self> {
                ::core::panic!("the machine has mistakes")
            }
        }
    }
}

fn checks(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let ty = &machine.item.self_ty;
    let name = machine.machine();
    let steps = machine.steps.iter().map(|step| {
        let (cfgs, step_name) = (&step.cfgs, &step.name);
        let message = format!(
            "step `{step_name}` has no variant: add `{}` to `enum {name}`, or rename the step to one that has",
            camel_case(step_name)
        );
        quote_spanned! {step.ident.span()=>
            #(#cfgs)*
            const _: () = ::core::assert!(#private::contains(STEPS, #step_name), #message);
        }
    });
    quote! {
        const _: () = {
            const STEPS: &[&#private::str] = <#ty as #private::Machine>::STEPS;
            #(#steps)*
        };
    }
}

fn private(machine: &MachineImpl) -> TokenStream {
    let krate = &machine.krate;
    quote!(#krate::__private)
}
