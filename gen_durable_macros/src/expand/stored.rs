//! The derives `DurableState` and `DurableSignal`.
//!
//! Invariant: a user's type implements serde's traits through a hidden copy of it, its twin.
//! Serde's own derive expands the twin (`#[serde(remote = …)]`). The user needs no dependency on
//! serde, and every `#[serde(…)]` attribute means what it means to serde.

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::{
    Attribute, Data, DeriveInput, Fields, LitStr, Meta, Token, Type, Visibility, ext::IdentExt,
    parse_quote, punctuated::Punctuated, spanned::Spanned,
};

use super::{
    constant,
    import::{Hint, alias, import},
    text,
};
use crate::{
    attr::{DeriveOptions, Text},
    check::{check_signal, check_state},
    errors::Errors,
    names::snake_case,
};

pub(crate) fn expand_state(input: &DeriveInput, errors: &mut Errors) -> TokenStream {
    let options = DeriveOptions::read(&input.attrs, false, errors);
    check_state(input, errors);
    let check = TokenStream::new();
    expand(input, &options, &check, |private| (quote!(#private::DurableState), TokenStream::new()))
}

pub(crate) fn expand_signal(input: &DeriveInput, errors: &mut Errors) -> TokenStream {
    let options = DeriveOptions::read(&input.attrs, true, errors);
    check_signal(input, errors);
    if let Some(Text::Literal(name)) = &options.name
        && name.value().starts_with("ended(")
    {
        errors.at(
            name,
            "a name that begins with `ended(` is reserved for the reports of ended instances; choose another one",
        );
    }
    let name = match &options.name {
        Some(name) => text("name", name),
        None => snake_case(&input.ident.unraw().to_string()).into_token_stream(),
    };
    let check = options.name.as_ref().and_then(|name| constant("name", name, &alias()));
    let check = check.unwrap_or_default();
    expand(input, &options, &check, |private| {
        let name = quote!(const NAME: &'static #private::str = #name;);
        (quote!(#private::DurableSignal), name)
    })
}

/// The impls of serde's traits, and of the derive's own trait. `of` returns this trait and the body
/// of its impl.
fn expand(
    input: &DeriveInput,
    options: &DeriveOptions,
    check: &TokenStream,
    of: impl FnOnce(&Ident) -> (TokenStream, TokenStream),
) -> TokenStream {
    if !input.generics.params.is_empty() || matches!(input.data, Data::Union(_)) {
        return TokenStream::new();
    }
    let private = alias();
    let import = import(options.krate.as_ref(), &private, Hint::Attribute);
    let ident = &input.ident;
    let (ours, body) = of(&private);
    let serde = (!options.external_serde).then(|| serde_impls(input, options, &private));
    quote! {
        const _: () = {
            #import
            #serde
            #[automatically_derived]
            impl #ours for #ident {
                #body
            }
            #check
        };
    }
}

/// The call of the macro that implements serde's traits by the twin. If the user's type implements
/// them as well, the compiler shows the macro's name with its error. The name says what to do.
fn serde_impls(input: &DeriveInput, options: &DeriveOptions, private: &Ident) -> TokenStream {
    let ident = &input.ident;
    let twin = twin(input, options, private);
    let twin_ident = twin_ident(input);
    quote! {
        #private::remove_serdes_derives_or_write_durable_serde_external! {
            #ident #twin_ident #twin
        }
    }
}

fn twin_ident(input: &DeriveInput) -> Ident {
    format_ident!("__Durable{}", input.ident.unraw())
}

/// The twin: a type of the same shape, with the attributes of serde and `cfg` and no others.
fn twin(input: &DeriveInput, options: &DeriveOptions, private: &Ident) -> TokenStream {
    let mut twin = input.clone();
    twin.ident = twin_ident(input);
    twin.vis = Visibility::Inherited;
    keep_serde(&mut twin.attrs);
    for attr in &mut twin.attrs {
        name_default(attr, &input.ident);
    }
    match &mut twin.data {
        Data::Struct(data) => strip(&mut data.fields, &input.ident),
        Data::Enum(data) => {
            for variant in &mut data.variants {
                keep_serde(&mut variant.attrs);
                strip(&mut variant.fields, &input.ident);
            }
        }
        Data::Union(_) => {}
    }
    let remote = input.ident.to_string();
    // Serde's derive reads this path from a string. The import of the block around it has no effect
    // in a string, so the path begins with the crate.
    let krate =
        options.krate.as_ref().map_or_else(|| quote!(::gen_durable), |krate| quote!(#krate));
    let serde = quote!(#krate::__private::serde).to_string().replace(' ', "");
    quote! {
        #[derive(#private::serde::Serialize, #private::serde::Deserialize)]
        #[serde(crate = #serde, remote = #remote)]
        #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
        #twin
    }
}

fn strip(fields: &mut Fields, ident: &Ident) {
    for field in fields.iter_mut() {
        keep_serde(&mut field.attrs);
        field.vis = Visibility::Inherited;
        field.ty = Type::Verbatim(without_self(field.ty.to_token_stream(), ident));
    }
}

/// A field's type with the user's type for `Self`: in the twin, `Self` would be the twin.
fn without_self(tokens: TokenStream, ident: &Ident) -> TokenStream {
    let replaced = tokens.into_iter().map(|token| match token {
        TokenTree::Ident(word) if word == "Self" => {
            let mut ident = ident.clone();
            ident.set_span(word.span());
            TokenTree::Ident(ident)
        }
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), without_self(group.stream(), ident));
            inner.set_span(group.span());
            TokenTree::Group(inner)
        }
        token => token,
    });
    replaced.collect()
}

/// Rewrites a type's own `#[serde(default)]` so that it names the user's type. Otherwise serde
/// would call the twin's `Default`.
fn name_default(attr: &mut Attribute, ident: &Ident) {
    let parser = Punctuated::<Meta, Token![,]>::parse_terminated;
    let Ok(mut options) = attr.parse_args_with(parser) else { return };
    let Some(option) = options
        .iter_mut()
        .find(|option| matches!(option, Meta::Path(path) if path.is_ident("default")))
    else {
        return;
    };
    let path = format!("<{ident} as ::core::default::Default>::default");
    let path = LitStr::new(&path, option.span());
    *option = parse_quote!(default = #path);
    attr.meta = parse_quote!(serde(#options));
}

fn keep_serde(attrs: &mut Vec<Attribute>) {
    attrs.retain(|attr| attr.path().is_ident("serde") || attr.path().is_ident("cfg"));
}
