//! Reads the values of options.
//!
//! Invariant: the message of an error shows the option as the user should write it.

use std::time::Duration;

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    ExprPath, LitInt, LitStr, Path, Token, Type,
    ext::IdentExt,
    parse::{Parse, ParseStream, Parser},
    token::Paren,
};

use super::{Backoff, Isolation, Missed, Text};
use crate::{
    errors::Errors,
    names::{self, camel_case, compact},
};

/// The longest name, in bytes, as in the runtime.
const NAME_MAX: usize = 255;

/// Reads `= 1`.
pub(super) fn version(input: ParseStream<'_>) -> syn::Result<u32> {
    input.parse::<Token![=]>()?;
    let wrong = "a version is a whole number from 1 to 2147483647: write `version = 1`";
    if !input.peek(LitInt) {
        return Err(not(input, wrong));
    }
    let literal: LitInt = input.parse()?;
    match literal.base10_parse::<u32>() {
        Ok(version) if version > 0 && i32::try_from(version).is_ok() => Ok(version),
        _ => Err(syn::Error::new(literal.span(), wrong)),
    }
}

/// Reads `= SendMailJob`.
pub(super) fn type_name(name: &str, input: ParseStream<'_>) -> syn::Result<Ident> {
    input.parse::<Token![=]>()?;
    if !input.peek(syn::Ident) {
        return Err(not(
            input,
            &format!("expected a name for the type: write `{name} = SendMailJob`"),
        ));
    }
    input.parse()
}

/// Reads `= "checkout"` or `= QUEUE`.
pub(super) fn text(
    name: &str,
    example: &str,
    input: ParseStream<'_>,
    errors: &mut Errors,
) -> syn::Result<Text> {
    input.parse::<Token![=]>()?;
    text_value(name, example, |text| format!("{name} = \"{text}\""), input, errors)
}

/// Reads `"checkout"` or `QUEUE`. `written` is the option with this text, as a user writes it.
pub(super) fn text_value(
    name: &str,
    example: &str,
    written: impl Fn(&str) -> String,
    input: ParseStream<'_>,
    errors: &mut Errors,
) -> syn::Result<Text> {
    let constant = name.to_uppercase();
    let wrong = |text: &str| {
        let written = written(text);
        format!("expected a string, or a constant such as `{constant}`: write `{written}`")
    };
    if !input.peek(LitStr) {
        let tokens = value_tokens(input);
        if tokens.is_empty() {
            return Err(input.error(wrong(example)));
        }
        if let Ok(path) = syn::parse2::<ExprPath>(tokens.clone())
            && may_be_constant(&path)
        {
            return Ok(Text::Constant(path));
        }
        // Most often this is the text without its quotes.
        let text = tokens.to_string().replace([' ', '"'], "");
        errors.at(&tokens, wrong(&text));
        return Ok(Text::Literal(LitStr::new(&text, Span::call_site())));
    }
    let literal: LitStr = input.parse()?;
    let value = literal.value();
    if value.is_empty() {
        return Err(syn::Error::new(
            literal.span(),
            format!("`{name}` is empty: give a name, or leave the option out"),
        ));
    }
    if value.contains(char::is_control) {
        return Err(syn::Error::new(
            literal.span(),
            format!("`{name}` holds a control character: remove it"),
        ));
    }
    if value.len() > NAME_MAX {
        return Err(syn::Error::new(
            literal.span(),
            format!("`{name}` has more than {NAME_MAX} bytes: give a shorter name"),
        ));
    }
    Ok(Text::Literal(literal))
}

/// True if a path may name a constant. A single word with a small letter is a text without its
/// quotes.
fn may_be_constant(path: &ExprPath) -> bool {
    let capitals = |ident: &Ident| !ident.unraw().to_string().contains(char::is_lowercase);
    path.qself.is_some() || path.path.get_ident().is_none_or(capitals)
}

/// Reads `= CheckoutState`.
pub(super) fn ty(name: &str, input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Type> {
    input.parse::<Token![=]>()?;
    if input.peek(LitStr) {
        return unquoted(name, "a type", input, errors, Type::parse);
    }
    input.parse().map_err(|error| {
        syn::Error::new(error.span(), format!("expected a type: write `{name} = TheType`"))
    })
}

/// Reads `= gen_durable`.
pub(super) fn path(
    name: &str,
    example: &str,
    input: ParseStream<'_>,
    errors: &mut Errors,
) -> syn::Result<Path> {
    input.parse::<Token![=]>()?;
    if input.peek(LitStr) {
        return unquoted(name, "a path", input, errors, Path::parse_mod_style);
    }
    let wrong = |at| syn::Error::new(at, format!("expected a path: write `{name} = {example}`"));
    let path = input.call(Path::parse_mod_style).map_err(|error| wrong(error.span()))?;
    match path.segments.first() {
        // No `use` may begin with it.
        Some(first) if first.ident == "Self" => Err(wrong(first.ident.span())),
        _ => Ok(path),
    }
}

/// Reads `= Start`.
pub(super) fn variant(
    name: &str,
    example: &str,
    input: ParseStream<'_>,
    errors: &mut Errors,
) -> syn::Result<Ident> {
    input.parse::<Token![=]>()?;
    if input.peek(LitStr) {
        return unquoted(name, "a variant", input, errors, Ident::parse);
    }
    let expected = format!("expected a variant: write `{name} = {example}`");
    let path = input
        .call(Path::parse_mod_style)
        .map_err(|error| syn::Error::new(error.span(), &expected))?;
    let Some(last) = path.segments.last() else {
        return Err(input.error(expected));
    };
    let ident = last.ident.clone();
    if path.get_ident().is_none() {
        errors.at(&path, format!("expected the variant's name alone: write `{name} = {ident}`"));
    }
    Ok(ident)
}

/// Reads `(PaymentConfirmed, Cancelled)`.
pub(super) fn signals(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Vec<Path>> {
    if input.peek(Paren) {
        let content;
        syn::parenthesized!(content in input);
        return signal_list(&content, errors);
    }
    let wrong = |given: &str| format!("the signals stand in parentheses: write `signals({given})`");
    let _: Option<Token![=]> = input.parse()?;
    if input.is_empty() || input.peek(Token![,]) {
        return Err(input.error(wrong("PaymentConfirmed")));
    }
    let tokens = value_tokens(input);
    let list = inner(&tokens);
    let paths = Parser::parse2(|input: ParseStream<'_>| signal_list(input, errors), list.clone())?;
    let given: Vec<String> = paths.iter().map(compact).collect();
    errors.at(&tokens, wrong(&given.join(", ")));
    Ok(paths)
}

fn signal_list(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Vec<Path>> {
    let mut paths = Vec::new();
    while !input.is_empty() {
        if input.peek(LitStr) {
            let literal: LitStr = input.parse()?;
            let name = camel_case(&literal.value());
            errors.at(
                &literal,
                format!("expected a type that derives DurableSignal, not a string: write `{name}`"),
            );
            paths.extend(LitStr::new(&name, literal.span()).parse::<Path>());
        } else {
            paths.push(input.parse().map_err(|error: syn::Error| {
                syn::Error::new(error.span(), "expected a type that derives DurableSignal")
            })?);
        }
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(paths)
}

/// Reads `(Ship, Cancel)`.
pub(super) fn targets(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Vec<Ident>> {
    if !input.peek(Paren) {
        let wrong = "the steps stand in parentheses: write `next(Ship, Cancel)`";
        return Err(not(input, wrong));
    }
    let group: Group = input.parse()?;
    Parser::parse2(|input: ParseStream<'_>| target_list(input, errors), group.stream())
}

fn target_list(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Vec<Ident>> {
    let mut targets = Vec::new();
    while !input.is_empty() {
        if input.peek(LitStr) {
            let literal: LitStr = input.parse()?;
            let name = camel_case(&literal.value());
            errors.at(&literal, format!("expected a variant, not a string: write `{name}`"));
            targets.extend(LitStr::new(&name, literal.span()).parse::<Ident>());
        } else {
            let wrong = "expected a variant: write `next(Ship, Cancel)`";
            let path = input.call(Path::parse_mod_style);
            let path = path.map_err(|error| syn::Error::new(error.span(), wrong))?;
            targets.extend(path.segments.last().map(|last| last.ident.clone()));
        }
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(targets)
}

/// Reads `= "30s"`.
pub(super) fn duration(name: &str, example: &str, input: ParseStream<'_>) -> syn::Result<Duration> {
    input.parse::<Token![=]>()?;
    let what = match name {
        "timeout" => "a timeout",
        "every" => "an interval",
        _ => "a delay",
    };
    let wrong = format!(
        "{what} is a whole number above 0 with a unit (ms, s, m or h): write `{name} = \"{example}\"`"
    );
    if !input.peek(LitStr) {
        return Err(not(input, &wrong));
    }
    let literal: LitStr = input.parse()?;
    names::duration(&literal.value()).ok_or_else(|| syn::Error::new(literal.span(), wrong))
}

/// Reads `= 5`.
pub(super) fn attempts(input: ParseStream<'_>) -> syn::Result<u32> {
    input.parse::<Token![=]>()?;
    let wrong = "the number of attempts is a whole number from 1 on, the first run included: write `max_attempts = 5`";
    if !input.peek(LitInt) {
        return Err(not(input, wrong));
    }
    let literal: LitInt = input.parse()?;
    match literal.base10_parse::<u32>() {
        Ok(attempts) if attempts > 0 => Ok(attempts),
        _ => Err(syn::Error::new(literal.span(), wrong)),
    }
}

/// Reads `= "exponential"`.
pub(super) fn backoff(input: ParseStream<'_>) -> syn::Result<Backoff> {
    input.parse::<Token![=]>()?;
    let wrong = "a backoff is \"constant\", \"linear\" or \"exponential\": write `backoff = \"exponential\"`";
    if !input.peek(LitStr) {
        return Err(not(input, wrong));
    }
    let literal: LitStr = input.parse()?;
    match &*literal.value() {
        "constant" => Ok(Backoff::Constant),
        "linear" => Ok(Backoff::Linear),
        "exponential" => Ok(Backoff::Exponential),
        _ => Err(syn::Error::new(literal.span(), wrong)),
    }
}

/// Reads `= "serializable"`.
pub(super) fn isolation(input: ParseStream<'_>) -> syn::Result<Isolation> {
    input.parse::<Token![=]>()?;
    let wrong = "an isolation level is \"read committed\", \"repeatable read\" or \"serializable\": write `isolation = \"serializable\"`";
    if !input.peek(LitStr) {
        return Err(not(input, wrong));
    }
    let literal: LitStr = input.parse()?;
    let (text, level) = match &*literal.value() {
        "read committed" => ("read committed", "ReadCommitted"),
        "repeatable read" => ("repeatable read", "RepeatableRead"),
        "serializable" => ("serializable", "Serializable"),
        _ => return Err(syn::Error::new(literal.span(), wrong)),
    };
    Ok(Isolation { at: literal.span(), text, level })
}

/// Reads `= "steps"`.
pub(super) fn history(input: ParseStream<'_>) -> syn::Result<&'static str> {
    input.parse::<Token![=]>()?;
    let wrong =
        "a history is \"off\", \"failures\", \"steps\" or \"states\": write `history = \"steps\"`";
    if !input.peek(LitStr) {
        return Err(not(input, wrong));
    }
    let literal: LitStr = input.parse()?;
    match &*literal.value() {
        "off" => Ok("Off"),
        "failures" => Ok("Failures"),
        "steps" => Ok("Steps"),
        "states" => Ok("States"),
        _ => Err(syn::Error::new(literal.span(), wrong)),
    }
}

/// Reads `= "0 3 * * *"`.
pub(super) fn string(name: &str, example: &str, input: ParseStream<'_>) -> syn::Result<LitStr> {
    input.parse::<Token![=]>()?;
    if !input.peek(LitStr) {
        return Err(not(input, &format!("expected a string: write `{name} = \"{example}\"`")));
    }
    input.parse()
}

/// Returns the place of the value that follows the `=`.
pub(super) fn place(input: ParseStream<'_>) -> Span {
    let ahead = input.fork();
    let _ = ahead.parse::<Token![=]>();
    ahead.span()
}

/// Reads `= "once"`.
pub(super) fn missed(input: ParseStream<'_>) -> syn::Result<(Span, Missed)> {
    let wrong = "missed ticks are \"skip\", \"once\", or \"all(24)\" with the most of them, up to 1000: write `missed = \"once\"`";
    let literal = word(wrong, input)?;
    let text = literal.value();
    let all = || text.strip_prefix("all(")?.strip_suffix(')')?.parse::<u32>().ok();
    let missed = match (&*text, all()) {
        ("skip", _) => Missed::Skip,
        ("once", _) => Missed::Once,
        (_, Some(max)) if (1..=1000).contains(&max) => Missed::All(max),
        _ => return Err(syn::Error::new(literal.span(), wrong)),
    };
    Ok((literal.span(), missed))
}

/// Reads `= "skip"`.
pub(super) fn overlap(input: ParseStream<'_>) -> syn::Result<(Span, &'static str)> {
    let wrong =
        "a tick that overlaps is \"skip\", \"allow\" or \"queue\": write `overlap = \"skip\"`";
    let literal = word(wrong, input)?;
    let overlap = match &*literal.value() {
        "skip" => "Skip",
        "allow" => "Allow",
        "queue" => "Queue",
        _ => return Err(syn::Error::new(literal.span(), wrong)),
    };
    Ok((literal.span(), overlap))
}

/// Reads `=` and a string.
fn word(wrong: &str, input: ParseStream<'_>) -> syn::Result<LitStr> {
    input.parse::<Token![=]>()?;
    if input.peek(LitStr) { input.parse() } else { Err(not(input, wrong)) }
}

/// Reads `(…)`, and returns its place and the tokens inside.
pub(super) fn in_parentheses(
    example: &str,
    input: ParseStream<'_>,
) -> syn::Result<(Span, TokenStream)> {
    if !input.peek(Paren) {
        let wrong = format!("the options stand in parentheses: write `{example}`");
        return Err(not(input, &wrong));
    }
    let group: Group = input.parse()?;
    Ok((group.span(), group.stream()))
}

/// Reads `= external`; true if this is the value.
pub(super) fn external(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<bool> {
    input.parse::<Token![=]>()?;
    if input.peek(LitStr) {
        return unquoted("serde", "a word", input, errors, Ident::parse)
            .map(|word| word == "external");
    }
    let wrong = "the only value is `serde = external`: the type implements serde's traits itself";
    let value =
        input.call(Ident::parse_any).map_err(|error| syn::Error::new(error.span(), wrong))?;
    if value != "external" {
        return Err(syn::Error::new(value.span(), wrong));
    }
    Ok(true)
}

/// Checks that no value follows: the option stands alone.
pub(super) fn flag(name: &str, input: ParseStream<'_>) -> syn::Result<()> {
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(());
    }
    Err(not(input, &format!("the option `{name}` takes no value: write `{name}` alone")))
}

/// Reports a string where another kind of value belongs, and reads the value inside the string.
fn unquoted<T: ToTokens>(
    name: &str,
    what: &str,
    input: ParseStream<'_>,
    errors: &mut Errors,
    parser: impl Fn(ParseStream<'_>) -> syn::Result<T>,
) -> syn::Result<T> {
    let literal: LitStr = input.parse()?;
    let message = format!("expected {what}, not a string");
    match literal.parse_with(parser) {
        Ok(value) => {
            errors.at(&literal, format!("{message}: write `{name} = {}`", literal.value()));
            Ok(value)
        }
        Err(_) => Err(syn::Error::new(
            literal.span(),
            format!("{message}, and this names none: write `{name} = …` without quotes"),
        )),
    }
}

/// Makes an error that underlines the value.
pub(super) fn not(input: ParseStream<'_>, wrong: &str) -> syn::Error {
    let value = value_tokens(input);
    if value.is_empty() { input.error(wrong) } else { syn::Error::new_spanned(value, wrong) }
}

/// Takes everything up to the next comma.
fn value_tokens(input: ParseStream<'_>) -> TokenStream {
    let mut tokens = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        let Ok(token) = input.parse::<TokenTree>() else { break };
        tokens.extend([token]);
    }
    tokens
}

/// The tokens inside of a single group of brackets, or else the tokens themselves.
fn inner(tokens: &TokenStream) -> TokenStream {
    let mut trees = tokens.clone().into_iter();
    match (trees.next(), trees.next()) {
        (Some(TokenTree::Group(group)), None) => group.stream(),
        _ => tokens.clone(),
    }
}
