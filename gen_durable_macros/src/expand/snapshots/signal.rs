const _: () = {
    macro_rules! if_gen_durable_has_another_name_write_durable_crate_equals_that_name {
        () => {
            use ::gen_durable::__private as __gen_durable;
        };
    }
    if_gen_durable_has_another_name_write_durable_crate_equals_that_name! {}
    __gen_durable::remove_serdes_derives_or_write_durable_serde_external! {
        PaymentConfirmed __DurablePaymentConfirmed
        #[derive(__gen_durable::serde::Serialize, __gen_durable::serde::Deserialize)]
        #[serde(crate = "::gen_durable::__private::serde", remote = "PaymentConfirmed")]
        #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)] struct
        __DurablePaymentConfirmed { amount : i64 }
    }
    #[automatically_derived]
    impl __gen_durable::DurableSignal for PaymentConfirmed {
        const NAME: &'static __gen_durable::str = "payment_confirmed";
    }
};
