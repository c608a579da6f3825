//! The import by which generated code finds `gen_durable`.
//!
//! Invariant: an expansion names the crate once, here, and reaches it by the import's name otherwise.
//! If the crate has another name, the import alone is reported: the compiler keeps silent about
//! whatever relies on an import that failed.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::Path;

/// What a user has to write where `gen_durable` has another name. The compiler shows it as the name
/// of the macro that the error comes from: an error of its own is all that a path can have.
#[derive(Clone, Copy)]
pub(super) enum Hint {
    /// `#[durable_fsm(crate = durable)]`
    Option,
    /// `#[durable(crate = durable)]`
    Attribute,
}

/// The import's name in a block of the expansion's own.
pub(super) fn alias() -> Ident {
    Ident::new("__gen_durable", Span::call_site())
}

/// Imports what generated code uses as `alias`, from the crate at `krate`.
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
