//! Values come back as they were written. A value that could not come back is refused at once.

use std::collections::{BTreeMap, HashMap};

use gen_durable::{EncodeError, InsertError, SignalError, StepErrorKind, prelude::*};
use serde::{Deserialize, Serialize};

use crate::support::{WAIT_MAX, database, engine, row, until};

/// Numbers on which JSON readers and databases differ.
const FLOATS: [f64; 10] = [
    f64::MAX,
    f64::MIN,
    f64::MIN_POSITIVE,
    5e-324,
    -0.0,
    0.1 + 0.2,
    1e15 + 0.3,
    9_007_199_254_740_993.0,
    123_456_789.123_456_78,
    1e300,
];

#[derive(Clone, Debug, PartialEq, DurableState)]
#[serde(tag = "type", content = "data")]
pub enum Adjacent {
    Keys(BTreeMap<u64, String>),
    Wide(u128, i128),
    Unit,
}

#[derive(Clone, Debug, PartialEq, DurableState)]
#[serde(tag = "kind")]
pub enum Internal {
    Known { n: i64, more: Option<String> },
    Unit,
}

#[derive(Clone, Debug, PartialEq, DurableState)]
#[serde(untagged)]
pub enum Untagged {
    Number(i64),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct Everything {
    floats: Vec<f64>,
    single: f32,
    adjacent: Vec<Adjacent>,
    internal: Vec<Internal>,
    untagged: Vec<Untagged>,
    keys: BTreeMap<i8, bool>,
    #[serde(flatten)]
    more: HashMap<String, i64>,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Go {
    value: Everything,
}

/// Takes its values through a commit and a park, and one more through a signal.
#[durable_fsm(state = Vec<Everything>, output = Vec<Everything>, signals(Go))]
pub enum Keeper {
    Begin,
    Wait,
}

#[durable_fsm]
impl Keeper {
    async fn begin(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Keeper::Wait)
    }

    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(go) = cx.take_signal::<Go>()? else { return Ok(cx.await_signal::<Go>()) };
        cx.state.push(go.value);
        let all = cx.state.clone();
        Ok(cx.done(all))
    }
}

fn everything() -> Everything {
    Everything {
        floats: FLOATS.to_vec(),
        single: 0.1,
        adjacent: vec![
            Adjacent::Keys([(u64::MAX, "last".to_owned()), (0, String::new())].into()),
            Adjacent::Wide(u128::MAX, i128::MIN),
            Adjacent::Unit,
        ],
        internal: vec![Internal::Known { n: i64::MIN, more: None }, Internal::Unit],
        untagged: vec![Untagged::Number(7), Untagged::Text("7".to_owned())],
        keys: [(-1, true)].into(),
        more: [("more".to_owned(), 1)].into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p46_what_is_accepted_comes_back_as_it_was_written() {
    let db = database().await;
    let engine = engine(&db).machine::<Keeper>().start().await.unwrap();
    let value = everything();
    let id = Keeper::insert(vec![value.clone()]).execute(&engine).await.unwrap();
    let parked = until(db.pool(), id, "awaiting_signal").await;
    assert!(parked.state.is_array());
    Keeper::signal_go(id, Go { value: value.clone() }).execute(&engine).await.unwrap();
    let read = engine.wait(id, WAIT_MAX).await.unwrap();
    for read in &read {
        assert_eq!(*read, value);
        let bits = |value: &Everything| -> Vec<u64> {
            value.floats.iter().map(|float| float.to_bits()).collect()
        };
        assert_eq!(bits(read), bits(&value), "to the last bit");
    }
    let (text, cast): (String, bool) =
        sqlx::query_as("select state::text, state::jsonb is not null from gen_durable.instances")
            .fetch_one(db.pool())
            .await
            .unwrap();
    assert_eq!(text, serde_json::to_string(&read).unwrap(), "stored as it was written");
    assert!(cast, "and can be queried by hand");
    engine.shutdown().await.unwrap();
}

/// Takes random bits through the database: by five replays, and then as its result.
#[durable_fsm(state = Vec<f64>, output = Vec<f64>)]
pub enum Bits {
    Carry,
}

#[durable_fsm]
impl Bits {
    async fn carry(cx: Context<Self>) -> Outcome<Self> {
        if cx.attempt() < 5 {
            return cx.replay(std::time::Duration::ZERO);
        }
        let bits = cx.state.clone();
        cx.done(bits)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p46_no_bit_of_a_random_float_changes() {
    let db = database().await;
    let engine = engine(&db).machine::<Bits>().start().await.unwrap();
    let mut seed = 1_u64;
    let floats: Vec<f64> = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        f64::from_bits(seed)
    })
    .filter(|float| float.is_finite())
    .take(5_000)
    .collect();
    let id = Bits::insert(floats.clone()).execute(&engine).await.unwrap();
    let read = engine.wait(id, WAIT_MAX).await.unwrap();
    assert!(floats.iter().zip(&read).all(|(one, two)| one.to_bits() == two.to_bits()));
    engine.shutdown().await.unwrap();
}

/// Types that cannot read all that they write. Some of them fail only for certain values.
mod unreadable {
    use super::*;

    #[derive(Clone, Debug, DurableState)]
    #[serde(untagged)]
    pub enum Wide {
        Number(u128),
    }

    #[derive(Clone, Debug, DurableState)]
    #[serde(tag = "kind")]
    pub enum Keyed {
        Map { by_number: BTreeMap<u32, u32> },
    }

    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub struct Inner {
        pub n: i64,
    }

    #[derive(Clone, Debug, DurableState)]
    pub struct Twice {
        pub n: i64,
        #[serde(flatten)]
        pub inner: Inner,
    }

    #[derive(Clone, Debug, DurableState)]
    pub struct Skips {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub list: Vec<i64>,
    }

    #[derive(Clone, Debug, DurableState)]
    pub struct Checked {
        #[serde(deserialize_with = "below_ten")]
        pub small: u32,
    }

    fn below_ten<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let n = u32::deserialize(deserializer)?;
        if n < 10 { Ok(n) } else { Err(serde::de::Error::custom("it is ten or more")) }
    }
}

/// A value that steps and callers put into everything that stores one: a state, an output, an
/// insert, a signal.
#[derive(Clone, Debug, DurableState)]
pub struct Odd {
    floats: Vec<f64>,
    some: Option<f32>,
    wide: Option<unreadable::Wide>,
    keyed: Option<unreadable::Keyed>,
    twice: Option<unreadable::Twice>,
    skips: Option<unreadable::Skips>,
    checked: Option<unreadable::Checked>,
}

fn even() -> Odd {
    let skips = Some(unreadable::Skips { list: vec![1] });
    let checked = Some(unreadable::Checked { small: 9 });
    let (wide, keyed, twice) = (None, None, None);
    Odd { floats: vec![1.0], some: Some(0.5), wide, keyed, twice, skips, checked }
}

/// The values that must be refused, each with the path that the refusal names.
fn odds() -> Vec<(&'static str, Odd)> {
    let keyed = unreadable::Keyed::Map { by_number: [(1, 2)].into() };
    let twice = unreadable::Twice { n: 1, inner: unreadable::Inner { n: 2 } };
    vec![
        ("floats[1]", Odd { floats: vec![0.0, f64::NAN], ..even() }),
        ("floats[0]", Odd { floats: vec![f64::NEG_INFINITY], ..even() }),
        ("some", Odd { some: Some(f32::INFINITY), ..even() }),
        ("wide", Odd { wide: Some(unreadable::Wide::Number(u128::MAX)), ..even() }),
        ("keyed", Odd { keyed: Some(keyed), ..even() }),
        ("twice", Odd { twice: Some(twice), ..even() }),
        ("skips", Odd { skips: Some(unreadable::Skips { list: Vec::new() }), ..even() }),
        ("checked.small", Odd { checked: Some(unreadable::Checked { small: 10 }), ..even() }),
    ]
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Give {
    odd: Odd,
}

/// The state of a step that makes an odd value: the place for the value, and its index in `odds`.
#[derive(Clone, Debug, DurableState)]
pub struct Making {
    place: String,
    index: usize,
    odd: Option<Odd>,
}

#[durable_fsm(state = Making, output = Option<Odd>, signals(Give))]
pub enum Maker {
    Make,
    Next,
}

#[durable_fsm]
impl Maker {
    async fn make(mut cx: Context<Self>) -> Outcome<Self> {
        let odd = odds().swap_remove(cx.state.index).1;
        match cx.state.place.as_str() {
            "state" => {
                cx.state.odd = Some(odd);
                cx.next(Maker::Next)
            }
            "output" => cx.done(Some(odd)),
            "insert" => {
                let state = Making { odd: Some(odd), ..cx.state.clone() };
                cx.next(Maker::Next).insert(Maker::insert(state))
            }
            _ => {
                let give = Maker::signal_give(cx.id(), Give { odd });
                cx.next(Maker::Next).signal(give)
            }
        }
    }

    async fn next(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("a value went through that cannot be read")
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        assert_eq!(error.kind(), StepErrorKind::Rejected);
        assert!(cx.state.odd.is_none(), "`handle` sees the state that the step began with");
        cx.stop(format!("refused: {error}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p46_what_could_not_be_read_is_refused_where_a_step_makes_it() {
    let db = database().await;
    let engine = engine(&db).machine::<Maker>().start().await.unwrap();
    for (place, prefix) in
        [("state", "odd."), ("output", ""), ("insert", "odd."), ("signal", "odd.")]
    {
        for (index, (field, _)) in odds().iter().enumerate() {
            let state = Making { place: place.to_owned(), index, odd: None };
            let id = Maker::insert(state).execute(&engine).await.unwrap();
            let error = engine.wait(id, WAIT_MAX).await.unwrap_err().to_string();
            let named = format!("field `{prefix}{field}");
            assert!(error.contains("refused: ") && error.contains(&named), "{place}: {error}");
            assert_eq!(row(db.pool(), id).await.inbox, 0);
        }
    }
    let instances: i64 = sqlx::query_scalar("select count(*) from gen_durable.instances")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(instances, 4 * 8, "nothing else was inserted");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p46_what_could_not_be_read_is_refused_where_a_caller_gives_it() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let making = |odd| Making { place: String::new(), index: 0, odd };
    let id = Maker::insert(making(None)).execute(&client).await.unwrap();
    for (field, odd) in odds() {
        let not_finite = odd.floats.iter().any(|float| !float.is_finite())
            || odd.some.is_some_and(|float| !float.is_finite());
        let expected = |error: &EncodeError| match error {
            EncodeError::NotFinite { field: found, .. } if not_finite => found.contains(field),
            EncodeError::Unreadable { field: found, .. } if !not_finite => found.contains(field),
            _ => false,
        };
        let insert = Maker::insert(making(Some(odd.clone())));
        match insert.execute(&client).await.unwrap_err() {
            InsertError::Encode(error) => assert!(expected(&error), "{error}"),
            error => panic!("{error}"),
        }
        match Maker::signal_give(id, Give { odd }).execute(&client).await.unwrap_err() {
            SignalError::Encode(error) => assert!(expected(&error), "{error}"),
            error => panic!("{error}"),
        }
    }
    assert_eq!(row(db.pool(), id).await.inbox, 0);
}
