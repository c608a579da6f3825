//! Serde's traits for a user's type, by serde's own derive on a hidden twin of the type.
//!
//! Invariant: if the user's type implements them as well, the error shows what to do.

/// Implements serde's traits for a type by its twin, and emits the twin.
///
/// If the type has serde's own derives too, the compiler reports conflicting implementations. The
/// only text of ours in that report is the name of the macro from which one of them comes.
#[doc(hidden)]
#[macro_export]
macro_rules! remove_serdes_derives_or_write_durable_serde_external {
    ($ident:ident $twin:ident $($item:tt)*) => {
        $($item)*

        // Stands in if serde's derive found a mistake: then only that mistake is reported.
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

/// The functions that serde's derive would generate, for a type in which it found a mistake.
/// Otherwise it generates inherent functions, which take precedence over these.
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
