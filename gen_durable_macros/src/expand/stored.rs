//! The derives `DurableState` and `DurableSignal`.
//!
//! Invariant: a user's type implements serde's traits through a hidden twin that serde's own derive
//! expands (`#[serde(remote = …)]`): the user needs no dependency on serde, and every `#[serde(…)]`
//! attribute means what serde says.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Attribute, Data, DeriveInput, Fields, ext::IdentExt};

use crate::{ast::krate, attr::DeriveOptions, errors::Errors, names::snake_case};

pub(crate) fn expand_state(input: &DeriveInput, errors: &mut Errors) -> TokenStream {
    let options = DeriveOptions::read(&input.attrs, false, errors);
    check(input, "state", errors);
    let krate = krate(options.krate.as_ref());
    let private = quote!(#krate::__private);
    let ident = &input.ident;
    let serde = serde_impls(input, &options, &private);
    if !input.generics.params.is_empty() {
        return TokenStream::new();
    }
    quote! {
        #serde
        #[automatically_derived]
        impl #private::DurableState for #ident {}
    }
}

pub(crate) fn expand_signal(input: &DeriveInput, errors: &mut Errors) -> TokenStream {
    let options = DeriveOptions::read(&input.attrs, true, errors);
    check(input, "signal", errors);
    let krate = krate(options.krate.as_ref());
    let private = quote!(#krate::__private);
    let ident = &input.ident;
    let serde = serde_impls(input, &options, &private);
    if !input.generics.params.is_empty() {
        return TokenStream::new();
    }
    let name = match &options.name {
        Some(name) => name.value(),
        None => snake_case(&ident.unraw().to_string()),
    };
    quote! {
        #serde
        #[automatically_derived]
        impl #private::DurableSignal for #ident {
            const NAME: &'static #private::str = #name;
        }
    }
}

fn check(input: &DeriveInput, what: &str, errors: &mut Errors) {
    if !input.generics.params.is_empty() {
        errors.at(
            &input.generics,
            format!("a {what} cannot be generic: what is stored must be of one known type; write a type for each"),
        );
    }
    if let Data::Union(data) = &input.data {
        errors.at(data.union_token, format!("a {what} cannot be a union; use a struct or an enum"));
    }
}

fn serde_impls(input: &DeriveInput, options: &DeriveOptions, private: &TokenStream) -> TokenStream {
    if options.external_serde || matches!(input.data, Data::Union(_)) {
        return TokenStream::new();
    }
    let ident = &input.ident;
    let twin = twin(input, private);
    let twin_ident = twin_ident(input);
    quote! {
        const _: () = {
            #twin

            #[automatically_derived]
            impl #private::serde::Serialize for #ident {
                fn serialize<__S: #private::serde::Serializer>(
                    &self,
                    serializer: __S,
                ) -> #private::Result<__S::Ok, __S::Error> {
                    #twin_ident::serialize(self, serializer)
                }
            }

            #[automatically_derived]
            impl<'de> #private::serde::Deserialize<'de> for #ident {
                fn deserialize<__D: #private::serde::Deserializer<'de>>(
                    deserializer: __D,
                ) -> #private::Result<Self, __D::Error> {
                    #twin_ident::deserialize(deserializer)
                }
            }
        };
    }
}

fn twin_ident(input: &DeriveInput) -> syn::Ident {
    format_ident!("__Durable{}", input.ident.unraw())
}

/// A type of the same shape, with serde's attributes and no others.
fn twin(input: &DeriveInput, private: &TokenStream) -> TokenStream {
    let mut twin = input.clone();
    twin.ident = twin_ident(input);
    twin.vis = syn::Visibility::Inherited;
    keep_serde(&mut twin.attrs);
    match &mut twin.data {
        Data::Struct(data) => strip(&mut data.fields),
        Data::Enum(data) => {
            for variant in &mut data.variants {
                keep_serde(&mut variant.attrs);
                strip(&mut variant.fields);
            }
        }
        Data::Union(_) => {}
    }
    let remote = input.ident.to_string();
    let serde = quote!(#private::serde).to_string().replace(' ', "");
    quote! {
        #[derive(#private::serde::Serialize, #private::serde::Deserialize)]
        #[serde(crate = #serde, remote = #remote)]
        #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
        #twin
    }
}

fn strip(fields: &mut Fields) {
    for field in fields.iter_mut() {
        keep_serde(&mut field.attrs);
        field.vis = syn::Visibility::Inherited;
    }
}

fn keep_serde(attrs: &mut Vec<Attribute>) {
    attrs.retain(|attr| attr.path().is_ident("serde") || attr.path().is_ident("cfg"));
}
