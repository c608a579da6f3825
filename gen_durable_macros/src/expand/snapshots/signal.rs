const _: () = {
    #[derive(
        ::gen_durable::__private::serde::Serialize,
        ::gen_durable::__private::serde::Deserialize
    )]
    #[serde(crate = "::gen_durable::__private::serde", remote = "PaymentConfirmed")]
    #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
    struct __DurablePaymentConfirmed {
        amount: i64,
    }
    #[allow(unused_imports)]
    use ::gen_durable::__private::SerdeFallback as _;
    #[automatically_derived]
    impl ::gen_durable::__private::serde::Serialize for PaymentConfirmed {
        fn serialize<__S: ::gen_durable::__private::serde::Serializer>(
            &self,
            serializer: __S,
        ) -> ::gen_durable::__private::Result<__S::Ok, __S::Error> {
            __DurablePaymentConfirmed::serialize(self, serializer)
        }
    }
    #[automatically_derived]
    impl<'de> ::gen_durable::__private::serde::Deserialize<'de> for PaymentConfirmed {
        fn deserialize<__D: ::gen_durable::__private::serde::Deserializer<'de>>(
            deserializer: __D,
        ) -> ::gen_durable::__private::Result<Self, __D::Error> {
            __DurablePaymentConfirmed::deserialize(deserializer)
        }
    }
};
#[automatically_derived]
impl ::gen_durable::__private::DurableSignal for PaymentConfirmed {
    const NAME: &'static ::gen_durable::__private::str = "payment_confirmed";
}
