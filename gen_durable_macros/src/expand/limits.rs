//! The functions of the trait `Steps` that state the limits of the steps and the keys of their
//! runs.
//!
//! Invariant: nothing is generated for a machine without limits. In a key, `state` means the state
//! alone.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::Expr;

use super::{constant, handlers::of_steps, private_at, text};
use crate::{
    ast::{MachineImpl, ends},
    attr::Limit,
};

/// The functions `limit` and `limit_key`.
pub(super) fn limits(machine: &MachineImpl, private: &Ident) -> TokenStream {
    let none = quote!(#private::None);
    let limit = of_steps(machine, "limit", &quote!(StepLimit), &none, |step| {
        step.options.limit.as_ref().map(|limit| step_limit(limit, private))
    });
    let limit_key = limit_key(machine, private);
    quote!(#limit #limit_key)
}

/// A limit, as an expression of the runtime's type.
fn step_limit(limit: &Limit, private: &Ident) -> TokenStream {
    let constant = constant("limit", &limit.name, private);
    let name = text("limit", &limit.name);
    let weight = (limit.weight != 1).then(|| {
        let weight = limit.weight;
        quote!(.weight(#weight))
    });
    let keyed = limit.key.is_some().then(|| quote!(.keyed()));
    let limit = quote!(#private::StepLimit::new(#name) #weight #keyed);
    match constant {
        Some(constant) => quote!({ #constant #limit }),
        None => limit,
    }
}

fn limit_key(machine: &MachineImpl, private: &Ident) -> Option<TokenStream> {
    // No name in a key means this parameter.
    let data = Ident::new("__data", Span::mixed_site());
    let arms: Vec<_> = machine
        .steps
        .iter()
        .filter_map(|step| {
            let (cfgs, name) = (&step.cfgs, &step.name);
            let key = step.options.limit.as_ref()?.key.as_ref()?;
            let text = key_text(machine, key, private);
            Some(quote!(#(#cfgs)* #name => #private::Some(#text(#data)),))
        })
        .collect();
    if arms.is_empty() {
        return None;
    }
    Some(quote! {
        fn limit_key(
            &self,
            #data: &<Self as #private::Machine>::State,
        ) -> #private::Option<#private::String> {
            match #private::Machine::name(self) {
                #(#arms)*
                _ => #private::None,
            }
        }
    })
}

/// A closure that returns a key's text. It keeps a `?` or a `return` of the key from ending the
/// function. The compiler reports a key without a text at the whole expression: the argument begins
/// at its first token and ends at its last.
fn key_text(machine: &MachineImpl, key: &Expr, private: &Ident) -> TokenStream {
    let (begin, end) = ends(key);
    let state = Ident::new("state", state_span(key.to_token_stream()).unwrap_or(begin));
    let at = private_at(&machine.import, begin);
    let reference = quote_spanned!(begin=> &);
    let key = quote_spanned!(end=> (#key));
    quote! {
        (|#state: &<Self as #private::Machine>::State| -> #private::String {
            let _ = #state;
            #at::LimitKey::text(#reference #key)
        })
    }
}

/// Finds the first `state` in a key. The closure's parameter has its span, so the key means the
/// parameter also if a macro of the user's wrote the key.
fn state_span(key: TokenStream) -> Option<Span> {
    key.into_iter().find_map(|tree| match tree {
        TokenTree::Group(group) => state_span(group.stream()),
        TokenTree::Ident(ident) => (ident == "state").then(|| ident.span()),
        _ => None,
    })
}
