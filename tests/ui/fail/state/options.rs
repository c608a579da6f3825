use gen_durable::prelude::*;

#[derive(serde::Serialize, serde::Deserialize, DurableState)]
#[durable(serd = external)]
struct Misspelt;

#[derive(DurableState)]
#[durable(name = "order")]
struct Named;

#[derive(DurableState)]
#[durable(serde = internal)]
struct Internal;

#[derive(DurableState)]
#[durable(serde)]
struct NoValue;

#[derive(serde::Serialize, serde::Deserialize, DurableState)]
#[durable(serde = "external")]
struct Quoted;

#[derive(DurableState)]
#[durable]
struct Bare;

#[derive(DurableState)]
#[durable = "external"]
struct Equals;

#[derive(DurableSignal)]
#[durable(name = "a")]
#[durable(name = "b")]
struct Twice;

#[derive(DurableSignal)]
#[durable(name = Paid)]
struct Path;

#[derive(DurableSignal)]
#[durable(name = "")]
struct Empty;

#[derive(DurableState)]
#[durable(crate = "gen_durable")]
struct StringForPath;

fn main() {}
