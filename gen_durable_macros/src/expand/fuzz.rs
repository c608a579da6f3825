//! Tests of the macros with random input. No tokens make a macro panic. The user's item is always
//! in the expansion, which is valid Rust if the item is.
//!
//! Each run has the same cases. `FUZZ_CASES=1000000` runs more of them, `FUZZ_SEED=…` runs others.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proc_macro2::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::Item;

use super::{durable_fsm, durable_job, durable_signal, durable_state, test};

/// A generator of random numbers (splitmix64), good enough to pick tokens.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below a usize")
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A random token: one that the macros look for, or one that they do not expect.
    fn token(&mut self, depth: usize) -> TokenTree {
        match self.below(if depth == 0 { 7 } else { 9 }) {
            0..=2 => {
                let word = self.pick(WORDS);
                match word.strip_prefix("r#") {
                    Some(raw) => Ident::new_raw(raw, Span::call_site()).into(),
                    None => Ident::new(word, Span::call_site()).into(),
                }
            }
            3 | 4 => {
                let spacing = self.pick(&[Spacing::Alone, Spacing::Joint]);
                Punct::new(self.pick(&PUNCTUATION), spacing).into()
            }
            5 | 6 => self.pick(LITERALS).parse::<Literal>().expect("a literal").into(),
            _ => {
                let delimiter = self.pick(&[
                    Delimiter::Parenthesis,
                    Delimiter::Brace,
                    Delimiter::Bracket,
                    Delimiter::None,
                ]);
                Group::new(delimiter, self.tokens(depth - 1)).into()
            }
        }
    }

    fn tokens(&mut self, depth: usize) -> TokenStream {
        (0..self.below(8)).map(|_| self.token(depth)).collect()
    }

    /// The same tokens with a few of them dropped, doubled, swapped or replaced, at any depth.
    fn mutated(&mut self, tokens: TokenStream, chances: usize) -> TokenStream {
        let mut out: Vec<TokenTree> = Vec::new();
        for token in tokens {
            let token = match token {
                TokenTree::Group(group) => {
                    let mut delimiter = group.delimiter();
                    if self.one_in(chances * 4) {
                        delimiter =
                            self.pick(&[Delimiter::Parenthesis, Delimiter::Brace, Delimiter::None]);
                    }
                    Group::new(delimiter, self.mutated(group.stream(), chances)).into()
                }
                other => other,
            };
            if !self.one_in(chances) {
                out.push(token);
                continue;
            }
            match self.below(5) {
                0 => {}
                1 => out.extend([token.clone(), token]),
                2 => out.push(self.token(2)),
                3 => out.extend([token, self.token(2)]),
                _ => {
                    let before = out.pop();
                    out.push(token);
                    out.extend(before);
                }
            }
        }
        out.into_iter().collect()
    }
}

const WORDS: &[&str] = &[
    "version",
    "queue",
    "state",
    "output",
    "name",
    "initial",
    "signals",
    "timeout",
    "upgrades",
    "retired",
    "history",
    "retry",
    "next",
    "entry",
    "isolation",
    "limit",
    "key",
    "weight",
    "crate",
    "serde",
    "external",
    "durable",
    "step",
    "max_attempts",
    "backoff",
    "max",
    "jitter",
    "remote",
    "setup",
    "test",
    "PgPool",
    "handle",
    "Self",
    "self",
    "async",
    "fn",
    "enum",
    "impl",
    "pub",
    "mut",
    "cx",
    "Context",
    "JobContext",
    "Outcome",
    "StepResult",
    "StepError",
    "Checkout",
    "Start",
    "Ship",
    "r#type",
    "r#Gen",
    "Größe",
    "_",
    "for",
    "where",
    "dyn",
    "mod",
    "unsafe",
    "const",
    "static",
    "true",
    "struct",
    "union",
    "await",
    "doc",
    "cfg",
    "derive",
    "i64",
];

const PUNCTUATION: [char; 16] =
    ['=', ',', ';', ':', '<', '>', '&', '#', '!', '?', '.', '-', '|', '$', '@', '*'];

const LITERALS: &[&str] = &[
    "0",
    "1",
    "-1",
    "300",
    "0xff",
    "1_u8",
    "1000001",
    "4294967296",
    "99999999999999999999999999999999999999999999",
    "1.5",
    "1e400",
    "\"\"",
    "\"x\"",
    "\"30s\"",
    "\"0s\"",
    "\"-1s\"",
    "\"99999999999999999999h\"",
    "\"1.5h\"",
    "\"exponential\"",
    "\"a\\0b\"",
    "\"payment confirmed\"",
    "\"\\u{1f980}\"",
    "r#\"raw\"#",
    "b\"bytes\"",
    "'c'",
    "b'c'",
    "c\"text\"",
];

/// Correct uses of the macros, each with its options and its item: the tests spoil them.
fn seeds() -> Vec<(TokenStream, TokenStream)> {
    let item = quote! {
        /// Documented.
        #[derive(Debug)]
        pub enum Checkout { Start, #[doc = "here"] AwaitPay, Ship = 3 }
    };
    let block = quote! {
        impl Checkout {
            #[step(next(AwaitPay), entry, timeout = "5s", retry(max_attempts = 3, backoff = "linear", jitter))]
            async fn start(mut cx: Context<Self>, carrier: &Carrier) -> StepResult<Self> {
                let n = cx.state.n?;
                if n > 3 { return Ok(cx.next(Checkout::AwaitPay)); }
                Ok(match n { 1 => cx.replay(delay), _ => cx.next_in(Self::Ship, delay).insert(x) })
            }
            #[step(limit("stripe", key = format!("{}", state.customer), weight = 3))]
            async fn await_pay(cx: Context<Self>) -> Outcome<Self> { cx.await_any_for::<(Paid, Cancelled)>(delay) }
            #[step(limit = limits::CARRIER)]
            async fn ship(cx: Context<Self>) -> Outcome<Self> { helper!(cx); cx.done(()) }
            fn other(&self) -> usize { 1 }
            async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> { cx.stop(error) }
        }
    };
    let job = quote! {
        /// Documented.
        pub async fn send_mail(cx: JobContext<Mail>, mailer: &Mailer) -> Result<Sent, Error> { Ok(mailer.send(cx.args).await?) }
    };
    let test = quote! {
        #[should_panic]
        pub async fn shipped(pool: PgPool) -> Result<(), Error> { ship(&pool).await }
    };
    let state = quote! {
        #[durable(serde = external, crate = renamed)]
        #[serde(rename_all = "camelCase")]
        pub struct CheckoutState { #[serde(default, with = "module")] pub order: Vec<Option<i64>>, r#type: (u8, [i32; 3]) }
    };
    let signal = quote! {
        #[durable(name = "paid")]
        pub enum Paid { Unit, Tuple(i64, String), Named { #[serde(skip)] amount: i64 } }
    };
    let options = quote! {
        version = 2, queue = "mail", state = a::State<u8>, output = (), name = "checkout", initial = Start, signals(Paid, b::Cancelled),
        timeout = "30s", upgrades = v1::Checkout, retired, history = "states", retry(max_attempts = 5, initial = "1s", max = "5m"), crate = ::renamed
    };
    vec![
        (options.clone(), item.clone()),
        (quote!(), item),
        (quote!(crate = renamed), block.clone()),
        (quote!(), block),
        (options, job.clone()),
        (quote!(timeout = "1m"), job.clone()),
        (quote!(limit("mail", weight = 2, key = state.to.domain(3))), job),
        (quote!(setup = a::tables, crate = renamed), test),
        (quote!(), state),
        (quote!(), signal),
    ]
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// True if the expansion has the user's item.
fn keeps(file: &syn::File, item: &Item) -> bool {
    file.items.iter().any(|found| match (item, found) {
        (Item::Enum(item), Item::Enum(found)) => item.ident == found.ident,
        (Item::Fn(item), Item::Fn(found)) => item.sig.ident == found.sig.ident,
        (Item::Impl(item), Item::Impl(found)) => {
            item.self_ty == found.self_ty && item.trait_ == found.trait_
        }
        _ => item.to_token_stream().to_string() == found.to_token_stream().to_string(),
    })
}

fn check_attribute(name: &str, expanded: &TokenStream, item: &TokenStream) -> Result<(), String> {
    let Ok(parsed) = syn::parse2::<Item>(item.clone()) else {
        let kept = expanded.to_string().starts_with(&item.to_string());
        return if kept { Ok(()) } else { Err(format!("{name} dropped what it could not read")) };
    };
    let file = syn::parse2::<syn::File>(expanded.clone())
        .map_err(|error| format!("what {name} gives is no Rust: {error}"))?;
    if keeps(&file, &parsed) { Ok(()) } else { Err(format!("{name} dropped the item")) }
}

fn check(options: &TokenStream, item: &TokenStream) -> Result<(), String> {
    for (name, expand) in [
        ("durable_fsm", durable_fsm as fn(TokenStream, TokenStream) -> TokenStream),
        ("durable_job", durable_job),
        ("test", test),
    ] {
        check_attribute(name, &expand(options.clone(), item.clone()), item)?;
    }
    for (name, expand) in [
        ("DurableState", durable_state as fn(TokenStream) -> TokenStream),
        ("DurableSignal", durable_signal),
    ] {
        // The compiler calls a derive only for a whole item. For other tokens, no panic is enough.
        if syn::parse2::<syn::DeriveInput>(item.clone()).is_ok() {
            syn::parse2::<syn::File>(expand(item.clone()))
                .map_err(|error| format!("what {name} gives is no Rust: {error}"))?;
        } else {
            expand(item.clone());
        }
    }
    Ok(())
}

fn fuzz(default: u64, mut make: impl FnMut(&mut Random) -> (TokenStream, TokenStream)) {
    let cases = number("FUZZ_CASES", default);
    let mut random = Random(number("FUZZ_SEED", 1));
    for case in 0..cases {
        let (options, item) = make(&mut random);
        let problem = match catch_unwind(AssertUnwindSafe(|| check(&options, &item))) {
            Ok(Ok(())) => continue,
            Ok(Err(problem)) => problem,
            Err(_) => "a macro panicked".to_owned(),
        };
        panic!("case {case}: {problem}\noptions: {options}\nitem: {item}");
    }
}

#[test]
fn random_tokens_are_no_reason_to_panic() {
    let seeds = seeds();
    fuzz(10_000, |random| {
        let (options, item) = seeds[random.below(seeds.len())].clone();
        // Random options on a correct item, a random item under correct options, or both random.
        match random.below(3) {
            0 => (random.tokens(3), item),
            1 => (options, random.tokens(3)),
            _ => (random.tokens(3), random.tokens(3)),
        }
    });
}

#[test]
fn spoilt_uses_are_no_reason_to_panic() {
    let seeds = seeds();
    fuzz(20_000, |random| {
        let (options, item) = seeds[random.below(seeds.len())].clone();
        let chances = random.pick(&[5, 20, 80]);
        (random.mutated(options, chances), random.mutated(item, chances))
    });
}
