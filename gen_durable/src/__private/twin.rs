//! Serde's traits for a user's type, by a hidden twin that serde's own derive expands.
//!
//! Invariant: where the user's type implements them as well, the error shows what to do.

/// Implements serde's traits for a type by its twin, and emits the twin.
///
/// If the type has serde's own derives too, the compiler reports conflicting implementations. The
/// one place for a word of ours is then the name of the macro that one of them comes from.
#[doc(hidden)]
#[macro_export]
macro_rules! remove_serdes_derives_or_write_durable_serde_external {
    ($ident:ident $twin:ident $($item:tt)*) => {
        $($item)*

        // Stands in if serde's derive found a mistake: that alone is reported.
        #[allow(unused_imports, reason = "serde's derive finds no mistake in most types")]
        use $crate::__private::SerdeFallback as _;

        #[automatically_derived]
        impl $crate::__private::serde::Serialize for $ident {
            fn serialize<__S: $crate::__private::serde::Serializer>(
                &self,
                serializer: __S,
            ) -> $crate::__private::Result<__S::Ok, __S::Error> {
                $twin::serialize(self, serializer)
            }
        }

        #[automatically_derived]
        impl<'de> $crate::__private::serde::Deserialize<'de> for $ident {
            fn deserialize<__D: $crate::__private::serde::Deserializer<'de>>(
                deserializer: __D,
            ) -> $crate::__private::Result<Self, __D::Error> {
                $twin::deserialize(deserializer)
            }
        }
    };
}

/// Has the functions that serde's derive would generate, for a type where it found a mistake. Inherent functions, which
/// it generates otherwise, go before these.
pub trait SerdeFallback: Sized {
    /// Never called.
    ///
    /// # Errors
    ///
    /// Always.
    fn serialize<T, S: serde::Serializer>(_: &T, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("serde's derive reported a mistake"))
    }

    /// Never called.
    ///
    /// # Errors
    ///
    /// Always.
    fn deserialize<'de, T, D: serde::Deserializer<'de>>(_: D) -> Result<T, D::Error> {
        Err(serde::de::Error::custom("serde's derive reported a mistake"))
    }
}

impl<T> SerdeFallback for T {}
