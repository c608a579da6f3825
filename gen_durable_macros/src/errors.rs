//! Collects errors, so that all mistakes in an item are reported at once.
//!
//! Invariant: collected errors are reported. A bug that drops them unreported panics in debug
//! builds of the macro.

use proc_macro2::TokenStream;
use quote::ToTokens;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    found: Vec<syn::Error>,
}

impl Errors {
    /// Adds an error that underlines `tokens`.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.found.push(syn::Error::new_spanned(tokens, message));
    }

    pub(crate) fn push(&mut self, error: syn::Error) {
        self.found.push(error);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Drops errors that only follow from one that was reported.
    pub(crate) fn discard(mut self) {
        self.found.clear();
    }

    /// Returns the errors as `compile_error!` items.
    pub(crate) fn report(mut self) -> TokenStream {
        std::mem::take(&mut self.found).iter().map(syn::Error::to_compile_error).collect()
    }
}

impl Drop for Errors {
    fn drop(&mut self) {
        debug_assert!(
            self.found.is_empty() || std::thread::panicking(),
            "errors were collected and not reported"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_reported() {
        let mut errors = Errors::default();
        errors.at(quote::quote!(a), "one");
        errors.at(quote::quote!(b), "two");
        let text = errors.report().to_string();
        assert!(text.contains("one") && text.contains("two"), "{text}");
    }

    #[test]
    #[should_panic(expected = "not reported")]
    fn dropping_them_is_a_bug() {
        let mut errors = Errors::default();
        errors.at(quote::quote!(a), "one");
    }
}
