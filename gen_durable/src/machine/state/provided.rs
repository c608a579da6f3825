//! The types of std, of `serde_json` and of this crate that can be stored as they are.
//!
//! Invariant: serde reads each of these types as it wrote it. The compiler's messages recommend
//! only a few of them: a user who forgot a derive does not look for a number.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    hash::{BuildHasher, Hash},
};

use serde::{Serialize, de::DeserializeOwned};

use super::DurableState;
use crate::id::InstanceId;

macro_rules! durable {
    ($($ty:ty)*) => {$(
        #[diagnostic::do_not_recommend]
        impl DurableState for $ty {}
    )*};
}

durable! {
    () bool char String serde_json::Value serde_json::Map<String, serde_json::Value>
    i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize f32 f64
    std::time::Duration std::time::SystemTime
}

macro_rules! tuples {
    ($($($part:ident)+;)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<$($part: DurableState),+> DurableState for ($($part,)+) {}
    )*};
}

tuples! {
    A;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H;
}

#[diagnostic::do_not_recommend]
impl<M: 'static> DurableState for InstanceId<M> {}

// The compiler may recommend these: if a type that is made of others cannot be stored, it then
// names the part that is at fault.
impl<A: DurableState, B: DurableState> DurableState for (A, B) {}
impl<A: DurableState, B: DurableState, C: DurableState> DurableState for (A, B, C) {}
impl<T: DurableState> DurableState for Option<T> {}
impl<T: DurableState, E: DurableState> DurableState for Result<T, E> {}
impl<T: DurableState> DurableState for Box<T> {}
impl<T: DurableState> DurableState for Vec<T> {}
impl<T: DurableState> DurableState for VecDeque<T> {}
impl<T: DurableState + Ord> DurableState for BTreeSet<T> {}
impl<T: DurableState> DurableState for BTreeMap<String, T> {}

impl<T, S> DurableState for HashSet<T, S>
where
    T: DurableState + Eq + Hash,
    S: BuildHasher + Default + Send + Sync + 'static,
{
}

impl<T, S> DurableState for HashMap<String, T, S>
where
    T: DurableState,
    S: BuildHasher + Default + Send + Sync + 'static,
{
}

// Serde implements its traits for each length by itself, up to 32.
#[diagnostic::do_not_recommend]
impl<T: DurableState, const N: usize> DurableState for [T; N] where
    [T; N]: Serialize + DeserializeOwned
{
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Debug, time::Duration};

    use super::*;
    use crate::value::{decode, encode};

    #[track_caller]
    fn comes_back<T: DurableState + PartialEq + Debug>(value: &T) {
        let json = encode("state", value, usize::MAX).expect("it can be stored");
        let back: T = decode("state", "machine", 1, &json.0).expect("it can be read");
        assert_eq!(&back, value);
    }

    #[test]
    fn each_comes_back_as_it_was() {
        comes_back(&(1_u8, 'a', i128::MIN, f32::MIN_POSITIVE, f64::MAX, u128::MAX, true, ()));
        comes_back(&(String::from("a"),));
        comes_back(&[[1_i16, 2], [3, 4]]);
        comes_back(&(Duration::MAX, std::time::UNIX_EPOCH + Duration::new(1, 1)));
        comes_back(&(Ok::<u32, String>(1), Err::<u32, String>("no".to_owned())));
        comes_back(&(VecDeque::from([1, 2]), BTreeSet::from([(1, 2)]), HashSet::from([3])));
        comes_back(&BTreeMap::from([("a".to_owned(), Some(vec![Box::new(1_u64)]))]));
        comes_back(&HashMap::from([(String::new(), InstanceId::<()>::from_raw(7))]));
        comes_back(&serde_json::Map::from_iter([("a".to_owned(), serde_json::Value::Null)]));
    }
}
