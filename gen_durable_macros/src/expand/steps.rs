//! The enum's expansion: `impl Machine`, the typed helpers, and the check that each variant has its
//! step.
//!
//! Invariant: the user's enum is emitted as it stands, also when it has mistakes; the expansion then
//! declares as much as keeps the compiler from reporting what follows from them.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::Path;

use crate::{
    ast::{MachineEnum, signal_helper},
    names::snake_case,
};

pub(crate) fn expand(machine: &MachineEnum, correct: bool) -> TokenStream {
    let item = &machine.item;
    if !item.generics.params.is_empty() {
        return quote!(#item);
    }
    let machine_impl = machine_impl(machine, correct);
    let helpers = helpers(machine);
    let signals = signals(machine);
    let checks = if correct { checks(machine) } else { TokenStream::new() };
    quote!(#item #machine_impl #helpers #signals #checks)
}

fn machine_impl(machine: &MachineEnum, correct: bool) -> TokenStream {
    let private = private(machine);
    let ident = &machine.item.ident;
    let options = &machine.options;
    let name = if let Some(name) = &options.name {
        quote!(#name)
    } else {
        let name = snake_case(&syn::ext::IdentExt::unraw(ident).to_string());
        quote!(#name)
    };
    let version = options.version.unwrap_or(1);
    let queue = options.queue.as_ref().map_or_else(|| quote!("default"), |queue| quote!(#queue));
    let state = state(machine);
    let output =
        options.output.as_ref().map_or_else(|| quote!(#private::Value), |output| quote!(#output));
    let timeout = options.timeout.map(|timeout| {
        let (seconds, nanos) = (timeout.as_secs(), timeout.subsec_nanos());
        quote! {
            const TIMEOUT: #private::Option<#private::Duration> =
                #private::Some(#private::Duration::new(#seconds, #nanos));
        }
    });
    let cfgs: Vec<_> = machine.steps.iter().map(|step| &step.cfgs).collect();
    let names: Vec<_> = machine.steps.iter().map(|step| &step.name).collect();
    let idents: Vec<_> = machine.steps.iter().map(|step| &step.ident).collect();
    let signal_types = &options.signals;
    let (initial, to_name, from_name) = if correct {
        let initial = options.initial.as_ref().or(idents.first().copied());
        (
            quote!(Self::#initial),
            quote!(match self { #(#(#cfgs)* Self::#idents => #names,)* }),
            quote! {
                match name {
                    #(#(#cfgs)* #names => #private::Some(Self::#idents),)*
                    _ => #private::None,
                }
            },
        )
    } else {
        // Never evaluated: the mistakes that led here are errors.
        let wrong = quote!(::core::panic!("the machine has mistakes"));
        (wrong.clone(), wrong, quote!({ let _ = name; #private::None }))
    };
    quote! {
        #[automatically_derived]
        impl #private::Machine for #ident {
            type State = #state;
            type Output = #output;
            const NAME: &'static #private::str = #name;
            const VERSION: #private::u32 = #version;
            const QUEUE: &'static #private::str = #queue;
            #timeout
            const INITIAL: Self = #initial;
            const STEPS: &'static [&'static #private::str] = &[#(#(#cfgs)* #names),*];
            const SIGNALS: &'static [&'static #private::str] =
                &[#(<#signal_types as #private::DurableSignal>::NAME),*];

            fn name(&self) -> &'static #private::str {
                #to_name
            }

            fn from_name(name: &#private::str) -> #private::Option<Self> {
                #from_name
            }
        }
    }
}

/// `insert` and `insert_many`.
fn helpers(machine: &MachineEnum) -> TokenStream {
    let private = private(machine);
    let (ident, vis) = (&machine.item.ident, &machine.item.vis);
    let state = state(machine);
    quote! {
        #[automatically_derived]
        #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
        impl #ident {
            /// A new instance with this state; `.execute(…)` inserts it.
            #vis fn insert(state: #state) -> #private::Insert<Self> {
                #private::Insert::new(state)
            }

            /// Any number of new instances, from states or from inserts with options;
            /// `.execute(…)` inserts them.
            #vis fn insert_many<__I: #private::IntoInsert<Self>>(
                inserts: impl ::core::iter::IntoIterator<Item = __I>,
            ) -> #private::InsertMany<Self> {
                #private::InsertMany::new(inserts)
            }
        }

        #[automatically_derived]
        impl #private::IntoInsert<#ident> for #state {
            fn into_insert(self) -> #private::Insert<#ident> {
                #private::Insert::new(self)
            }
        }
    }
}

/// `signal`, and `signal_<name>` for each declared signal.
fn signals(machine: &MachineEnum) -> TokenStream {
    if machine.options.signals.is_empty() {
        return TokenStream::new();
    }
    let private = private(machine);
    let (ident, vis) = (&machine.item.ident, &machine.item.vis);
    let helpers = machine.options.signals.iter().filter_map(|signal| {
        let helper = signal_helper(signal)?;
        Some(signal_fn(machine, &helper, signal))
    });
    let accepts = machine.options.signals.iter().map(|signal| {
        quote! {
            #[automatically_derived]
            impl #private::Accepts<#signal> for #ident {}
        }
    });
    quote! {
        #[automatically_derived]
        #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
        impl #ident {
            /// A signal to an instance, of any type that the machine declares; `.execute(…)`
            /// sends it.
            #vis fn signal<__S: #private::DurableSignal>(
                id: #private::InstanceId<Self>,
                payload: __S,
            ) -> #private::Signal<Self>
            where
                Self: #private::Accepts<__S>,
            {
                #private::Signal::new(id, &payload)
            }

            #(#helpers)*
        }

        #(#accepts)*
    }
}

fn signal_fn(machine: &MachineEnum, helper: &Ident, signal: &Path) -> TokenStream {
    let private = private(machine);
    let vis = &machine.item.vis;
    let doc = format!(
        "A [`{}`] to an instance; `.execute(…)` sends it.",
        quote!(#signal).to_string().replace(' ', "")
    );
    quote! {
        #[doc = #doc]
        #vis fn #helper(
            id: #private::InstanceId<Self>,
            payload: #signal,
        ) -> #private::Signal<Self> {
            #private::Signal::new(id, &payload)
        }
    }
}

/// Checks that are made when the constants are evaluated: only then is the impl block known.
fn checks(machine: &MachineEnum) -> TokenStream {
    let private = private(machine);
    let ident = &machine.item.ident;
    let steps = machine.steps.iter().map(|step| {
        let (cfgs, name) = (&step.cfgs, &step.name);
        let message = format!(
            "variant `{}` has no step: write `async fn {name}(cx: Context<Self>) -> Outcome<Self>` in `#[durable_fsm] impl {ident}`",
            step.ident
        );
        quote_spanned! {step.ident.span()=>
            #(#cfgs)*
            const _: () = ::core::assert!(#private::contains(NAMES, #name), #message);
        }
    });
    let message = format!(
        "two signals of `{ident}` have one name; give one of them another with `#[durable(name = \"…\")]`"
    );
    let names = quote_spanned! {ident.span()=>
        const NAMES: &[&#private::str] = <#ident as #private::StepFunctions>::NAMES;
    };
    let signals = quote_spanned! {ident.span()=>
        const _: () = ::core::assert!(
            #private::all_different(<#ident as #private::Machine>::SIGNALS),
            #message
        );
    };
    quote! {
        const _: () = {
            #names
            #(#steps)*
            #signals
        };
    }
}

fn state(machine: &MachineEnum) -> TokenStream {
    machine.options.state.as_ref().map_or_else(|| quote!(()), |state| quote!(#state))
}

fn private(machine: &MachineEnum) -> TokenStream {
    let krate = machine.krate();
    quote!(#krate::__private)
}
