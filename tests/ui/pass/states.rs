//! What may be a state, a result or a signal, and serde's attributes on it.

use std::collections::BTreeMap;

use gen_durable::prelude::*;
use serde_json::{Value, from_value, json, to_value};

#[derive(Clone, Debug, Default, PartialEq, DurableState)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Order {
    order_id: i64,
    #[serde(rename = "k")]
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip)]
    cache: Cache,
    #[serde(with = "text")]
    price: u32,
    #[serde(default = "five")]
    stars: u8,
}

/// Not known to serde, and need not be: it is skipped.
#[derive(Clone, Debug, Default, PartialEq)]
struct Cache;

fn five() -> u8 {
    5
}

mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Debug, Default, PartialEq, DurableState)]
enum Kind {
    #[default]
    Plain,
    #[serde(rename = "fragile")]
    Glass,
    Sized(u32, u32),
    Named {
        name: String,
    },
}

#[derive(Clone, Debug, PartialEq, DurableState)]
#[serde(tag = "type", content = "content", rename_all = "snake_case")]
enum Tagged {
    ByLand(u32),
    BySea { ship: String },
}

#[derive(Clone, Debug, PartialEq, DurableState)]
struct Flat {
    id: i64,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, PartialEq, DurableState)]
#[serde(default)]
struct Inner {
    a: u8,
    b: u8,
}

impl Default for Inner {
    fn default() -> Self {
        Self { a: 1, b: 2 }
    }
}

/// A type within itself, under both of its names.
#[derive(Clone, Debug, PartialEq, DurableState)]
struct Tree {
    children: Vec<Self>,
    boxed: Option<Box<Tree>>,
    pair: (Vec<[Option<Box<Self>>; 1]>, u8),
}

#[derive(Clone, Debug, PartialEq, DurableState)]
#[serde(try_from = "u32", into = "u32")]
struct Even(u32);

impl TryFrom<u32> for Even {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if number % 2 == 0 { Ok(Self(number)) } else { Err(format!("{number} is odd")) }
    }
}

impl From<Even> for u32 {
    fn from(even: Even) -> u32 {
        even.0
    }
}

#[derive(Clone, Debug, PartialEq, DurableState)]
struct Unit;

#[derive(Clone, Debug, PartialEq, DurableState)]
struct Pair(i64, String);

#[derive(Clone, Debug, PartialEq, DurableState)]
#[serde(transparent)]
struct Wrapped {
    number: u64,
}

/// Implements serde's traits itself.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, DurableState)]
#[durable(serde = external)]
#[serde(rename_all = "UPPERCASE")]
struct External {
    id: i64,
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, DurableSignal)]
#[durable(serde = external, name = "outside")]
struct ExternalSignal;

#[derive(Clone, Debug, PartialEq, DurableSignal)]
struct UnitSignal;

#[derive(Clone, Debug, PartialEq, DurableSignal)]
struct TupleSignal(i64);

#[derive(Clone, Debug, PartialEq, DurableSignal)]
#[serde(untagged)]
enum Either {
    Number(i64),
    Text(String),
}

/// A state may hold states, and a signal as well.
#[derive(Clone, Debug, PartialEq, DurableState)]
struct Nested {
    order: Order,
    signal: Either,
    list: Vec<Option<Kind>>,
}

#[durable_fsm(state = Vec<Option<Kind>>, output = (), signals(ExternalSignal, UnitSignal, TupleSignal, Either))]
enum Sorting {
    Step,
}

#[durable_fsm]
impl Sorting {
    async fn step(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.push(None);
        cx.done(())
    }
}

/// A type of another crate.
#[derive(Clone, Debug, PartialEq, DurableState)]
struct Host(std::net::IpAddr);

/// What can be stored as it is.
fn provided<T: DurableState>() {}

#[track_caller]
fn round<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    value: &T,
    wanted: Value,
) {
    let stored = to_value(value).unwrap();
    assert_eq!(stored, wanted);
    assert_eq!(&from_value::<T>(stored).unwrap(), value);
}

fn main() {
    let order = Order { order_id: 1, kind: Kind::Glass, price: 30, ..Order::default() };
    round(&order, json!({ "orderId": 1, "k": "fragile", "price": "30", "stars": 0 }));
    let order: Order = from_value(json!({ "orderId": 1, "k": "Plain", "price": "3" })).unwrap();
    assert_eq!(order.stars, 5);
    from_value::<Order>(json!({ "orderId": 1, "k": "Plain", "price": "3", "x": 1 })).unwrap_err();

    round(&Kind::Sized(1, 2), json!({ "Sized": [1, 2] }));
    round(&Kind::Named { name: "a".into() }, json!({ "Named": { "name": "a" } }));
    round(&Tagged::ByLand(3), json!({ "type": "by_land", "content": 3 }));
    round(
        &Tagged::BySea { ship: "a".into() },
        json!({ "type": "by_sea", "content": { "ship": "a" } }),
    );
    let flat: Flat = from_value(json!({ "id": 1, "b": 3, "c": true })).unwrap();
    assert_eq!(flat.inner, Inner { a: 1, b: 3 });
    round(&flat, json!({ "id": 1, "a": 1, "b": 3, "c": true }));
    let leaf = Tree { children: vec![], boxed: None, pair: (vec![], 0) };
    let tree = Tree {
        children: vec![leaf.clone()],
        boxed: Some(Box::new(leaf.clone())),
        pair: (vec![[Some(Box::new(leaf))]], 1),
    };
    assert_eq!(from_value::<Tree>(to_value(&tree).unwrap()).unwrap(), tree);
    round(&Even(2), json!(2));
    from_value::<Even>(json!(3)).unwrap_err();
    round(&Unit, json!(null));
    round(&Pair(1, "a".into()), json!([1, "a"]));
    round(&Wrapped { number: 1 }, json!(1));
    round(&Host([1, 2, 3, 4].into()), json!("1.2.3.4"));
    provided::<(u8, i128, char, [f32; 3], std::collections::HashSet<String>)>();
    provided::<Result<Box<Order>, BTreeMap<String, std::time::Duration>>>();
    provided::<InstanceId<Sorting>>();
    round(&External { id: 1 }, json!({ "ID": 1 }));
    round(&UnitSignal, json!(null));
    round(&TupleSignal(1), json!(1));
    round(&Either::Text("a".into()), json!("a"));
    let nested = Nested { order, signal: Either::Number(1), list: vec![None] };
    assert_eq!(from_value::<Nested>(to_value(&nested).unwrap()).unwrap(), nested);
    assert_eq!(Sorting::SIGNALS, ["outside", "unit_signal", "tuple_signal", "either"]);
}
