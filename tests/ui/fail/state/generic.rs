use gen_durable::prelude::*;

#[derive(DurableState)]
struct Order<T> {
    id: T,
}

#[derive(DurableState)]
struct Noted<'a> {
    text: &'a str,
}

fn main() {}
