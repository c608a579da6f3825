//! Tests of the expansion as a whole: it never panics, it equals its snapshot, and it is the same
//! each time.

use proc_macro2::TokenStream;
use quote::quote;

use super::{durable_fsm, durable_job, durable_signal, durable_state, test};

fn pretty(tokens: &TokenStream) -> String {
    match syn::parse2::<syn::File>(tokens.clone()) {
        Ok(file) => prettyplease::unparse(&file),
        Err(error) => panic!("the expansion does not parse: {error}\n{tokens}"),
    }
}

/// Compares an expansion with the snapshot of this name. With `BLESS=1`, writes the snapshot first.
fn snapshot(name: &str, tokens: &TokenStream) {
    let path = format!("{}/src/expand/snapshots/{name}.rs", env!("CARGO_MANIFEST_DIR"));
    let expansion = pretty(tokens);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &expansion).expect("the snapshot can be written");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(expansion, known, "the expansion changed; look at it, then run with BLESS=1");
}

fn checkout() -> (TokenStream, TokenStream) {
    let options = quote!(
        version = 1,
        queue = "checkout",
        state = CheckoutState,
        output = Receipt,
        signals(PaymentConfirmed)
    );
    let item = quote! {
        pub enum Checkout {
            Start,
            AwaitPay,
        }
    };
    (options, item)
}

#[test]
fn expansion_of_the_enum() {
    let (options, item) = checkout();
    snapshot("enum", &durable_fsm(options, item));
}

#[test]
fn expansion_of_a_retired_version_that_upgrades_another() {
    let options = quote!(version = 2, upgrades = v1::Checkout, retired);
    let item = quote! {
        pub enum Checkout {
            Start,
        }
    };
    snapshot("retired", &durable_fsm(options, item));
}

#[test]
fn expansion_of_the_impl_block() {
    let item = quote! {
        impl Checkout {
            async fn start(mut cx: Context<Self>) -> Outcome<Self> {
                cx.next(Checkout::AwaitPay)
            }
            async fn await_pay(cx: Context<Self>, carrier: &Carrier) -> StepResult<Self> {
                helper();
                Ok(cx.done(Receipt {}))
            }
            async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
                cx.stop(error)
            }
            fn helper() {}
        }
    };
    snapshot("impl", &durable_fsm(TokenStream::new(), item));
}

#[test]
fn expansion_of_a_job() {
    let options = quote!(
        queue = "mail",
        timeout = "30s",
        history = "steps",
        retry(max_attempts = 3, jitter),
        limit("mail", key = state.domain())
    );
    let item = quote! {
        /// Sends a mail.
        pub async fn send_mail(cx: JobContext<Mail>, mailer: &Mailer) -> Result<(), Error> {
            mailer.send(&cx.state.to).await
        }
    };
    snapshot("job", &durable_job(options, item));
}

#[cfg(feature = "schedules")]
#[test]
fn expansion_of_a_scheduled_job() {
    let options =
        quote!(cron = "0 3 * * *", zone = "Europe/Berlin", missed = "all(24)", overlap = "queue");
    let item = quote! {
        async fn report(cx: JobContext<Day>) {}
    };
    snapshot("scheduled_job", &durable_job(options, item));
}

#[test]
fn expansion_of_the_options_of_steps() {
    let item = quote! {
        impl Checkout {
            #[step(next(Ship), timeout = "30s")]
            async fn start(cx: Context<Self>) -> Outcome<Self> {
                go(cx)
            }
            #[step(entry, retry(max_attempts = 3, backoff = "linear"))]
            async fn ship(cx: Context<Self>) -> Outcome<Self> {
                cx.done(())
            }
        }
    };
    snapshot("options", &durable_fsm(TokenStream::new(), item));
}

#[test]
fn expansion_of_the_limits_of_steps() {
    let item = quote! {
        impl Checkout {
            #[step(limit = "stripe")]
            async fn charge(cx: Context<Self>, tx: &mut PgConnection) -> Outcome<Self> {
                cx.next(Checkout::Ship)
            }
            #[step(limit(limits::CARRIER, key = state.customer, weight = 3))]
            async fn ship(cx: Context<Self>) -> Outcome<Self> {
                cx.next(Checkout::Report)
            }
            async fn report(cx: Context<Self>) -> Outcome<Self> {
                cx.done(())
            }
        }
    };
    snapshot("limits", &durable_fsm(TokenStream::new(), item));
}

#[test]
fn expansion_of_the_derives() {
    let state = quote! {
        #[doc = "A state."]
        pub struct CheckoutState {
            pub order: i64,
            #[serde(default)]
            paid: Option<i64>,
        }
    };
    snapshot("state", &durable_state(state));
    let signal = quote! {
        pub struct PaymentConfirmed { amount: i64 }
    };
    snapshot("signal", &durable_signal(signal));
}

#[test]
fn expansion_of_a_test() {
    let item = quote! {
        /// An order is shipped.
        #[cfg(unix)]
        pub async fn shipped(pool: PgPool) -> Result<(), Error> {
            ship(&pool).await
        }
    };
    snapshot("test", &test(quote!(setup = crate::tables), item));
}

#[test]
fn expansion_is_deterministic() {
    let (options, item) = checkout();
    let first = durable_fsm(options.clone(), item.clone()).to_string();
    assert_eq!(first, durable_fsm(options, item).to_string());
}

#[test]
fn body_passes_through_untouched() {
    let function = quote! {
        async fn a(cx: Context<Self>) -> Outcome<Self> { weird! { << tokens >> } ; cx.next(M::A) }
    };
    let expanded = durable_fsm(TokenStream::new(), quote!(impl M { #function })).to_string();
    assert!(expanded.contains(&function.to_string()), "{expanded}");
}

#[test]
fn no_input_makes_it_panic_and_the_item_is_always_emitted() {
    let options = [
        quote!(),
        quote!(,),
        quote!(= =),
        quote!(version),
        quote!(version = ),
        quote!(version = -1),
        quote!(version = 99999999999999999999),
        quote!(version = 1 version = 1),
        quote!(queue = queue, name = 1, initial = "Start", timeout = 30),
        quote!(state = , output = <),
        quote!(upgrades, upgrades = "v1::M", upgrades = <M, retired = true, retired(), retired),
        quote!(signals, signals(,), signals("a"), signals(A, A)),
        quote!(crate = "x", "x", 1, (), {}, []),
        quote!(state = Vec<A, B>, unknown(a, b), r#version = 1),
    ];
    let items = [
        quote!(
            enum M {
                A,
                B,
            }
        ),
        quote!(
            enum M {}
        ),
        quote!(
            enum M<T> {
                A(T),
            }
        ),
        quote!(
            enum r#match {
                r#Type,
                Insert,
                Signal,
                Handle,
                AwaitIt { x: u8 },
                A = 3,
                a,
            }
        ),
        quote!(impl M {}),
        quote!(
            impl<T> M<T> {
                async fn a(cx: Context<Self>) {}
            }
        ),
        quote!(impl Trait for M { fn a(cx: Context<Self>) {} }),
        quote!(impl M { const fn a<'a>(cx: &'a Context<Self>, x: X, y: &mut Y, z: &impl Z) {} }),
        quote!(impl M { async fn handle(); async fn handle(cx: Context<Self>) {} }),
        quote!(
            impl (A, B) {
                async fn a(self, cx: Context<Self>) -> Outcome<Self> {}
            }
        ),
        quote!(
            struct S;
        ),
        quote!(
            fn f() {}
        ),
        quote!(
            mod m {}
        ),
        quote!(not an item),
        quote!(),
    ];
    for option in &options {
        for item in &items {
            let expanded = durable_fsm(option.clone(), item.clone()).to_string();
            let mut wanted = item.clone().into_iter();
            let emitted = wanted.all(|token| match token {
                proc_macro2::TokenTree::Ident(ident) => expanded.contains(&ident.to_string()),
                _ => true,
            });
            assert!(emitted, "{expanded}");
        }
    }
    for item in &items {
        let _ = durable_state(item.clone());
        let _ = durable_signal(item.clone());
    }
    let _ = durable_state(quote!(union U { a: u8 }));
    let _ = durable_signal(quote!(
        #[durable(name = 1, serde = internal, x)]
        struct S<T>(T);
    ));
    let _ = durable_state(quote!(
        #[durable]
        #[durable = 1]
        #[durable(crate = "x", crate = y)]
        struct S;
    ));
}

#[test]
fn no_job_and_no_step_makes_it_panic() {
    let options = [
        quote!(retry, retry(), retry = 5, retry(max_attempts, initial = 3, x, jitter jitter)),
        quote!(retry(max_attempts = 99999999999, initial = "99h", max = "1s", backoff = none)),
        quote!(= =, state = X, version = 0),
        quote!(setup, setup = , setup = "a::b", setup = Self, crate = 1),
        quote!(limit, limit = , limit(), limit(1), limit(key = ), limit = Self, limit = "a" b),
        quote!(limit("a", key, weight = -1, weight), limit("a" "b"), limit(A::<B>, key = |)),
    ];
    let items = [
        quote!(
            async fn __() {}
        ),
        quote!(
            async fn _1(self, cx: X) -> Result {}
        ),
        quote!(
            fn self_<T>(&mut cx: &JobContext<'a>, a: A, b: &B) -> impl Result<'a> {}
        ),
        quote!(
            async fn r#match(JobContext { state, .. }: JobContext<A, B>) -> Result<(), (), ()> {}
        ),
        quote!(
            unsafe extern "C" fn a(...) {}
        ),
        quote!(impl M {
            #[step]
            #[step = 1]
            #[step(next, next(1, A, "b", "?"), entry(1), retry(x), timeout, limit("a", key = state.))]
            async fn a(cx: Context<Self>) -> Outcome<Self> {
                cx.next(); cx.next(..); cx::<>; cx.await_any::<(); & cx; let cx; .cx; cx. ; cx.next_in::<>(=)
            }
        }),
    ];
    for item in &items {
        for option in &options {
            let _ = durable_job(option.clone(), item.clone());
            let _ = test(option.clone(), item.clone());
            let _ = durable_fsm(option.clone(), item.clone());
        }
        let _ = durable_fsm(TokenStream::new(), item.clone());
    }
}

/// If a job's machine had the name of a type in the signature, the compiler would report every use
/// of this name. The macro reports the clash alone.
#[test]
fn a_jobs_machine_may_not_be_called_like_a_type_of_its_signature() {
    for (job, clashes) in [
        (
            quote!(
                async fn mail(cx: JobContext<Mail>) {}
            ),
            true,
        ),
        (
            quote!(
                async fn mail(cx: JobContext<Vec<self::Mail>>) {}
            ),
            true,
        ),
        (
            quote!(
                async fn mail(cx: JobContext) -> Result<JobOutcome<Mail>, E> {}
            ),
            true,
        ),
        (
            quote!(
                async fn mail_error(cx: JobContext) -> Result<(), MailError> {}
            ),
            true,
        ),
        (
            quote!(
                async fn result(cx: JobContext) -> Result<(), E> {}
            ),
            true,
        ),
        (
            quote!(
                async fn mail(cx: JobContext, mail: &Mail) {}
            ),
            true,
        ),
        (
            quote!(
                async fn mail(cx: JobContext, mail: &Arc<dyn Mail>) {}
            ),
            true,
        ),
        (
            quote!(
                async fn mail(cx: JobContext<arguments::Mail>) {}
            ),
            false,
        ),
        (
            quote!(
                async fn mail(cx: JobContext, registry: &Registry<Mail>) {}
            ),
            false,
        ),
        (
            quote!(
                async fn mail(cx: JobContext<Vec<InstanceId<Mail>>>) {}
            ),
            false,
        ),
        (
            quote!(
                async fn mail(cx: JobContext<(), Mail>) {}
            ),
            false,
        ),
    ] {
        let expanded = durable_job(TokenStream::new(), job.clone()).to_string();
        assert_eq!(expanded.contains("compile_error"), clashes, "{job}: {expanded}");
    }
}
