//! Reads a list of options that are separated by commas.
//!
//! Invariant: each option is read at most once. A mistake in one leaves the others readable.

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::{
    Token,
    ext::IdentExt,
    parse::{ParseStream, Parser},
};

use crate::{errors::Errors, names::nearest};

/// The names of the options that may be given, each with an example.
pub(super) type Known = &'static [(&'static str, &'static str)];

/// The reader of the options of one item, which may stand in several attributes.
pub(super) struct OptionList {
    known: Known,
    /// Options that belong in another place, and the words of the error that name this place.
    elsewhere: Option<(Known, &'static str)>,
    seen: Vec<&'static str>,
}

impl OptionList {
    pub(super) fn new(known: Known, elsewhere: Option<(Known, &'static str)>) -> Self {
        Self { known, elsewhere, seen: Vec::new() }
    }

    /// Reads options that are separated by commas. `take` reads the tokens after an option's name.
    pub(super) fn options(
        &mut self,
        tokens: TokenStream,
        errors: &mut Errors,
        mut take: impl FnMut(&str, ParseStream<'_>, &mut Errors) -> syn::Result<()>,
    ) {
        let parser = |input: ParseStream<'_>| {
            while !input.is_empty() {
                self.option(input, errors, &mut take);
                skip_option(input);
            }
            Ok(())
        };
        // The parser takes every token and fails at none.
        if let Err(error) = parser.parse2(tokens) {
            errors.push(error);
        }
    }

    fn option(
        &mut self,
        input: ParseStream<'_>,
        errors: &mut Errors,
        take: &mut impl FnMut(&str, ParseStream<'_>, &mut Errors) -> syn::Result<()>,
    ) {
        let Ok(ident) = input.call(Ident::parse_any) else {
            errors.push(input.error(format!("expected an option: {}", names(self.known))));
            return;
        };
        let name = ident.unraw().to_string();
        let Some(option) = find(self.known, &name) else {
            let meant = self.unknown(&ident, &name, errors);
            if let Some(meant) = meant.filter(|meant| !self.seen.contains(meant)) {
                self.seen.push(meant);
                // Only the misspelt name is reported. Its value is used if it has no mistake.
                let mut more = Errors::default();
                let _ = take(meant, input, &mut more);
                more.discard();
            }
            return;
        };
        if self.seen.contains(&option.0) {
            errors.push(syn::Error::new(
                ident.span(),
                format!("the option `{name}` is given twice; keep one of them"),
            ));
            return;
        }
        self.seen.push(option.0);
        if lacks_value(option.1, input) {
            errors.push(syn::Error::new(
                ident.span(),
                format!("the option `{name}` needs a value: write `{}`", option.1),
            ));
            return;
        }
        match take(option.0, input, errors) {
            Ok(()) if input.is_empty() || input.peek(Token![,]) => {}
            Ok(()) => errors
                .push(input.error(format!("expected `,` or the end after the option `{name}`"))),
            Err(error) => errors.push(error),
        }
    }

    /// Reports an option that does not belong here. Returns the one that was probably meant.
    fn unknown(&self, ident: &Ident, name: &str, errors: &mut Errors) -> Option<&'static str> {
        if let Some((known, where_to)) = self.elsewhere
            && find(known, name).is_some()
        {
            errors.push(syn::Error::new(ident.span(), format!("the option `{name}` {where_to}")));
            return None;
        }
        let known: Vec<&'static str> = self.known.iter().map(|option| option.0).collect();
        let meant = nearest(name, &known);
        let hint = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.len() == 1 => format!("the only option is {}", names(self.known)),
            None => format!("the options are {}", names(self.known)),
        };
        errors.push(syn::Error::new(ident.span(), format!("unknown option `{name}`; {hint}")));
        meant
    }
}

fn find(known: Known, name: &str) -> Option<&'static (&'static str, &'static str)> {
    known.iter().find(|option| option.0 == name)
}

/// True if no value follows the name of an option that takes one.
fn lacks_value(example: &str, input: ParseStream<'_>) -> bool {
    let head = example.split('(').next().unwrap_or_default();
    if head.contains('=') {
        return !input.peek(Token![=]);
    }
    head != example && (input.is_empty() || input.peek(Token![,]))
}

fn names(known: Known) -> String {
    let names: Vec<String> = known.iter().map(|option| format!("`{}`", option.0)).collect();
    names.join(", ")
}

/// Skips the rest of an option and the comma behind it.
fn skip_option(input: ParseStream<'_>) {
    while let Ok(token) = input.parse::<TokenTree>() {
        if matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',') {
            return;
        }
    }
}
