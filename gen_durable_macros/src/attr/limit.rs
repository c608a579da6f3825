//! Reads the option `limit` of a step or a job.
//!
//! Invariant: without an error, the limit has a name and its weight is in bounds. A constant's text
//! is checked when the compiler evaluates constants.

use proc_macro2::{Ident, Span, TokenStream};
use syn::{Expr, LitInt, LitStr, Token, ext::IdentExt, parse::ParseStream, token::Paren};

use super::{LIMIT, Text, option_list::OptionList, values};
use crate::errors::Errors;

/// The limit that bounds the runs of a step.
#[derive(Clone)]
pub(crate) struct Limit {
    pub(crate) name: Text,
    /// The expression of a run's key, in which `state` is a reference to the state.
    pub(crate) key: Option<Expr>,
    /// The number of runs that one run counts as.
    pub(crate) weight: u32,
}

/// The largest weight, as in the runtime.
const WEIGHT_MAX: u32 = 1_000_000;

impl Limit {
    /// Reads `= "stripe"` or `("stripe", key = state.customer, weight = 3)`.
    pub(super) fn read(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Self> {
        if input.peek(Paren) {
            return Self::in_parentheses(input, errors);
        }
        if !input.peek(Token![=]) {
            let wrong = "a limit has a name: write `limit = \"stripe\"`";
            return Err(values::not(input, wrong));
        }
        let name = values::text("limit", "stripe", input, errors)?;
        Ok(Self { name, key: None, weight: 1 })
    }

    fn in_parentheses(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Self> {
        let content;
        let at = syn::parenthesized!(content in input).span.join();
        let name = name(at, &content, errors).unwrap_or_else(|error| {
            errors.push(error);
            Text::Literal(LitStr::new("", at))
        });
        let rest: TokenStream = content.parse()?;
        let mut limit = Self { name, key: None, weight: 1 };
        OptionList::new(LIMIT, None).options(rest, errors, |name, input, _| {
            match name {
                "key" => limit.key = Some(key(input)?),
                _ => limit.weight = weight(input)?,
            }
            Ok(())
        });
        Ok(limit)
    }
}

/// Reads the name, and the comma behind it.
fn name(at: Span, input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Text> {
    let wrong = "a limit begins with its name: write `limit(\"stripe\", key = state.customer)`";
    if input.is_empty() {
        return Err(syn::Error::new(at, wrong));
    }
    if input.peek(Ident::peek_any) && input.peek2(Token![=]) {
        return Err(input.error(wrong));
    }
    let written = |name: &str| format!("limit(\"{name}\")");
    let name = values::text_value("limit", "stripe", written, input, errors);
    if !input.is_empty() && input.parse::<Token![,]>().is_err() {
        errors.push(input.error("expected `,` or the end after the name of the limit"));
    }
    name
}

/// Reads `= state.customer`. A mistake is reported where the key begins: at the end of the options,
/// the parser only knows the whole attribute.
fn key(input: ParseStream<'_>) -> syn::Result<Expr> {
    let equals: Token![=] = input.parse()?;
    let alone = input.is_empty() || input.peek(Token![,]);
    let at = if alone { equals.span } else { input.span() };
    let wrong =
        "a key is an expression, in which `state` is the state: write `key = state.customer`";
    input.parse().map_err(|_| syn::Error::new(at, wrong))
}

/// Reads `= 3`.
fn weight(input: ParseStream<'_>) -> syn::Result<u32> {
    input.parse::<Token![=]>()?;
    let wrong = "a weight is a whole number from 1 to 1,000,000: write `weight = 3`";
    if !input.peek(LitInt) {
        return Err(values::not(input, wrong));
    }
    let literal: LitInt = input.parse()?;
    match literal.base10_parse::<u32>() {
        Ok(weight) if (1..=WEIGHT_MAX).contains(&weight) => Ok(weight),
        _ => Err(syn::Error::new(literal.span(), wrong)),
    }
}
