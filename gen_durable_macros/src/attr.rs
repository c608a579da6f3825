//! Reading the options of `#[durable_fsm(…)]` and `#[durable(…)]`.
//!
//! Invariant: reading goes on after a mistake, so that all of them are found.

use std::time::Duration;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::{
    LitInt, LitStr, Path, Token, Type,
    ext::IdentExt,
    parse::{ParseStream, Parser},
    punctuated::Punctuated,
};

use crate::{
    errors::Errors,
    names::{duration, nearest},
};

/// The options of a machine, as far as they were given.
#[derive(Default)]
pub(crate) struct MachineOptions {
    pub(crate) version: Option<u32>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) state: Option<Type>,
    pub(crate) output: Option<Type>,
    pub(crate) name: Option<LitStr>,
    pub(crate) initial: Option<Ident>,
    pub(crate) signals: Vec<Path>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) krate: Option<Path>,
}

/// The options of a derive.
#[derive(Default)]
pub(crate) struct DeriveOptions {
    pub(crate) external_serde: bool,
    pub(crate) name: Option<LitStr>,
    pub(crate) krate: Option<Path>,
}

const MACHINE_OPTIONS: &[&str] =
    &["version", "queue", "state", "output", "name", "initial", "signals", "timeout", "crate"];

impl MachineOptions {
    /// Reads the options on the enum.
    pub(crate) fn read(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        each_option(tokens, MACHINE_OPTIONS, errors, |name, input| {
            match name.to_string().as_str() {
                "version" => options.version = Some(version(input)?),
                "queue" => options.queue = Some(text(name, input)?),
                "name" => options.name = Some(text(name, input)?),
                "state" => options.state = Some(ty(name, input)?),
                "output" => options.output = Some(ty(name, input)?),
                "initial" => options.initial = Some(variant(input)?),
                "signals" => options.signals = paths(input)?,
                "timeout" => options.timeout = Some(timeout(input)?),
                "crate" => options.krate = Some(path(name, input)?),
                _ => return Ok(false),
            }
            Ok(true)
        });
        options
    }
}

/// Reads the options on the impl block: only where `gen_durable` is.
pub(crate) fn read_impl_options(tokens: TokenStream, errors: &mut Errors) -> Option<Path> {
    let mut krate = None;
    each_option(tokens, &["crate"], errors, |name, input| {
        let option = name.to_string();
        if option == "crate" {
            krate = Some(path(name, input)?);
            return Ok(true);
        }
        if MACHINE_OPTIONS.contains(&option.as_str()) {
            return Err(syn::Error::new(
                name.span(),
                format!(
                    "the option `{option}` belongs on the enum; the impl block takes `#[durable_fsm]` alone"
                ),
            ));
        }
        Ok(false)
    });
    krate
}

impl DeriveOptions {
    /// Reads the `#[durable(…)]` attributes of a type. `name` is an option of signals alone.
    pub(crate) fn read(attrs: &[syn::Attribute], is_signal: bool, errors: &mut Errors) -> Self {
        let known: &[&str] =
            if is_signal { &["serde", "name", "crate"] } else { &["serde", "crate"] };
        let mut options = Self::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("durable")) {
            let tokens = match attr.meta.require_list() {
                Ok(list) => list.tokens.clone(),
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            each_option(tokens, known, errors, |name, input| {
                match name.to_string().as_str() {
                    "serde" => {
                        input.parse::<Token![=]>()?;
                        let value = input.call(Ident::parse_any)?;
                        if value != "external" {
                            return Err(syn::Error::new(
                                value.span(),
                                "the only value is `serde = external`: the type implements serde's traits itself",
                            ));
                        }
                        options.external_serde = true;
                    }
                    "name" if is_signal => options.name = Some(text(name, input)?),
                    "crate" => options.krate = Some(path(name, input)?),
                    _ => return Ok(false),
                }
                Ok(true)
            });
        }
        options
    }
}

/// Walks options that are separated by commas. `take` reads the rest of one, and says false if it
/// does not know it.
fn each_option(
    tokens: TokenStream,
    known: &[&str],
    errors: &mut Errors,
    mut take: impl FnMut(&Ident, ParseStream<'_>) -> syn::Result<bool>,
) {
    let mut seen: Vec<String> = Vec::new();
    let walk =
        |input: ParseStream<'_>| {
            while !input.is_empty() {
                let Ok(name) = input.call(Ident::parse_any) else {
                    errors.push(input.error(format!("expected an option: {}", known.join(", "))));
                    skip_option(input);
                    continue;
                };
                if seen.contains(&name.to_string()) {
                    errors.push(syn::Error::new(
                        name.span(),
                        format!("the option `{name}` is given twice; keep one of them"),
                    ));
                }
                match take(&name, input) {
                    Ok(true) => {
                        if !input.is_empty() && !input.peek(Token![,]) {
                            errors.push(input.error(format!(
                                "expected `,` or the end after the option `{name}`"
                            )));
                        }
                    }
                    Ok(false) => errors.push(unknown_option(&name, known)),
                    Err(error) => errors.push(error),
                }
                seen.push(name.to_string());
                skip_option(input);
            }
            Ok(())
        };
    // The walk itself takes every token and fails at none.
    if let Err(error) = walk.parse2(tokens) {
        errors.push(error);
    }
}

/// Skips to behind the next comma.
fn skip_option(input: ParseStream<'_>) {
    while let Ok(token) = input.parse::<TokenTree>() {
        if matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',') {
            return;
        }
    }
}

fn unknown_option(name: &Ident, known: &[&str]) -> syn::Error {
    let hint = match nearest(&name.to_string(), known) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("the options are {}", known.join(", ")),
    };
    syn::Error::new(name.span(), format!("unknown option `{name}`; {hint}"))
}

fn version(input: ParseStream<'_>) -> syn::Result<u32> {
    input.parse::<Token![=]>()?;
    if !input.peek(LitInt) {
        return Err(input.error("a version is a whole number from 1 on: `version = 1`"));
    }
    let literal: LitInt = input.parse()?;
    match literal.base10_parse::<u32>() {
        Ok(version) if version > 0 && i32::try_from(version).is_ok() => Ok(version),
        _ => Err(syn::Error::new(
            literal.span(),
            "a version is a whole number from 1 to 2147483647: `version = 1`",
        )),
    }
}

fn text(name: &Ident, input: ParseStream<'_>) -> syn::Result<LitStr> {
    input.parse::<Token![=]>()?;
    if !input.peek(LitStr) {
        return Err(input.error(format!("expected a string: `{name} = \"…\"`")));
    }
    let literal: LitStr = input.parse()?;
    if literal.value().is_empty() || literal.value().contains(char::is_control) {
        return Err(syn::Error::new(
            literal.span(),
            format!("`{name}` must not be empty or hold control characters"),
        ));
    }
    Ok(literal)
}

/// An error if a string stands where a path or a type belongs.
fn no_string(name: &Ident, input: ParseStream<'_>, what: &str) -> syn::Result<()> {
    if input.peek(LitStr) {
        let literal: LitStr = input.parse()?;
        return Err(syn::Error::new(
            literal.span(),
            format!("expected {what}, not a string: write `{name} = {}`", literal.value()),
        ));
    }
    Ok(())
}

fn ty(name: &Ident, input: ParseStream<'_>) -> syn::Result<Type> {
    input.parse::<Token![=]>()?;
    no_string(name, input, "a type")?;
    input.parse()
}

fn path(name: &Ident, input: ParseStream<'_>) -> syn::Result<Path> {
    input.parse::<Token![=]>()?;
    no_string(name, input, "a path")?;
    input.call(Path::parse_mod_style)
}

fn variant(input: ParseStream<'_>) -> syn::Result<Ident> {
    input.parse::<Token![=]>()?;
    if input.peek(LitStr) {
        let literal: LitStr = input.parse()?;
        return Err(syn::Error::new(
            literal.span(),
            format!("expected a variant, not a string: write `initial = {}`", literal.value()),
        ));
    }
    input.parse()
}

fn paths(input: ParseStream<'_>) -> syn::Result<Vec<Path>> {
    if !input.peek(syn::token::Paren) {
        return Err(input.error("the signals stand in parentheses: `signals(PaymentConfirmed)`"));
    }
    let content;
    syn::parenthesized!(content in input);
    if content.peek(LitStr) {
        let literal: LitStr = content.parse()?;
        return Err(syn::Error::new(
            literal.span(),
            format!(
                "expected a type that derives DurableSignal, not a string: write `signals({})`",
                crate::names::camel_case(&literal.value())
            ),
        ));
    }
    let paths = Punctuated::<Path, Token![,]>::parse_terminated(&content)?;
    Ok(paths.into_iter().collect())
}

fn timeout(input: ParseStream<'_>) -> syn::Result<Duration> {
    input.parse::<Token![=]>()?;
    let wrong = "a timeout is a number with a unit (ms, s, m, h): `timeout = \"30s\"`";
    if !input.peek(LitStr) {
        return Err(input.error(wrong));
    }
    let literal: LitStr = input.parse()?;
    duration(&literal.value()).ok_or_else(|| syn::Error::new(literal.span(), wrong))
}
