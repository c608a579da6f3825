//! A test's expansion: a `#[test]` that holds the user's function and passes it to the runtime.
//!
//! Invariant: the function is emitted as it stands, and its attributes go to the `#[test]`. All
//! code is inside of this, so it is compiled for tests alone, and its names meet no others.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{FnArg, ItemFn, Visibility, parse_quote};

use super::{
    import::{Hint, alias, import},
    private_at,
};
use crate::{ast::ends, attr::TestOptions, names::compact};

pub(super) fn expand(test: &ItemFn, options: &TestOptions) -> TokenStream {
    let mut function = test.clone();
    function.vis = Visibility::Inherited;
    // The attribute requires that it is async, even if it awaits nothing.
    function.attrs = vec![parse_quote!(#[allow(clippy::unused_async)])];
    let ItemFn { attrs, vis, sig, .. } = test;
    let (name, output) = (&sig.ident, &sig.output);
    let import = import(options.krate.as_ref(), &alias(), Hint::Option);
    let setup = setup(options);
    let pool = pool(test);
    let run = private_at(&alias(), name.span());
    quote! {
        #(#attrs)*
        #[::core::prelude::v1::test]
        #vis fn #name() #output {
            #import
            #function
            #run::run_test(#setup, |#pool| #name(#pool))
        }
    }
}

/// The function alone, for a test with mistakes. It is async, so that the compiler reports no
/// `await` in it.
pub(super) fn stub(mut test: ItemFn) -> TokenStream {
    test.sig.asyncness.get_or_insert_default();
    test.into_token_stream()
}

/// The setup. The compiler reports a wrong function at the user's path.
fn setup(options: &TestOptions) -> TokenStream {
    let private = alias();
    let Some(path) = &options.setup else { return quote!(#private::Setup::none()) };
    let (name, at) = (compact(path), ends(path).0);
    let private = private_at(&private, at);
    quote_spanned!(at=> #private::Setup::new(#name, #path))
}

/// The name of the pool in the call of the function. The user's code cannot see it, and the
/// compiler reports a wrong type at the type.
fn pool(test: &ItemFn) -> Ident {
    let at = match test.sig.inputs.first() {
        Some(FnArg::Typed(pool)) => ends(&pool.ty).0,
        _ => test.sig.ident.span(),
    };
    Ident::new("pool", at.resolved_at(Span::mixed_site()))
}
