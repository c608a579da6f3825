//! The import by which generated code finds `gen_durable`.
//!
//! Invariant: an expansion names the crate once, in the import, and uses the import's name in all
//! other places. If the crate has another name, the compiler reports the import alone: it keeps
//! silent about code that relies on a failed import.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::Path;

/// The option that a user has to write if `gen_durable` has another name. A macro cannot change the
/// compiler's error about a path. The error shows the name of the macro that it comes from, so the
/// import stands in a macro whose name is the hint.
#[derive(Clone, Copy)]
pub(super) enum Hint {
    /// `#[durable_fsm(crate = durable)]`
    Option,
    /// `#[durable(crate = durable)]`
    Attribute,
}

/// The name of the import in a block that the expansion makes.
pub(super) fn alias() -> Ident {
    Ident::new("__gen_durable", Span::call_site())
}

/// Imports `__private` as `alias`, from the crate at `krate` or else from `::gen_durable`.
pub(super) fn import(krate: Option<&Path>, alias: &Ident, hint: Hint) -> TokenStream {
    if let Some(krate) = krate {
        return quote! {
            use #krate::__private as #alias;
        };
    }
    let hint = match hint {
        Hint::Option => "if_gen_durable_has_another_name_write_crate_equals_that_name",
        Hint::Attribute => "if_gen_durable_has_another_name_write_durable_crate_equals_that_name",
    };
    let hint = Ident::new(hint, Span::call_site());
    quote! {
        macro_rules! #hint {
            () => {
                use ::gen_durable::__private as #alias;
            };
        }
        #hint! {}
    }
}
