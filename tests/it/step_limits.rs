//! The limits that steps and jobs state, and the keys of their runs. No engine runs them here.

use gen_durable::{
    StepLimit,
    graph::{Edge, Graph, StepNode},
    prelude::*,
};

const CARRIER: &str = "carrier";

#[derive(Clone, Debug, DurableState)]
pub struct Order {
    customer: Customer,
    shop: String,
    parcels: Vec<u32>,
}

#[derive(Clone, Debug, DurableState)]
pub struct Customer {
    id: i64,
    country: String,
}

impl Order {
    fn lane(&self) -> Lane {
        Lane(self.parcels.len())
    }
}

struct Lane(usize);

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "lane {}", self.0)
    }
}

#[durable_fsm(state = Order, output = ())]
pub enum Checkout {
    Reserve,
    Charge,
    Pack,
    Ship,
    Report,
    Bill,
}

#[durable_fsm]
impl Checkout {
    async fn reserve(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Charge)
    }

    #[step(limit = "stripe")]
    async fn charge(cx: Context<Self>, tx: &mut PgConnection) -> Outcome<Self> {
        let _ = tx;
        cx.next(Checkout::Pack)
    }

    #[step(limit("packers", key = state.customer.id, weight = 3))]
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    #[step(limit(CARRIER, key = state.lane()))]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Report)
    }

    #[step(limit("reports: \"all\"", weight = 2, key = format!("{}/{}", state.shop, state.customer.country)))]
    async fn report(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Bill)
    }

    #[step(limit(self::CARRIER, weight = 1_000_000))]
    async fn bill(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// A job whose arguments have no fields.
#[durable_job(limit("mail", key = state.rsplit('@').next().unwrap_or_default()))]
async fn send_mail(cx: JobContext<String>) {
    let _ = cx;
}

#[durable_job(limit = CARRIER)]
async fn call_the_carrier(cx: JobContext) {
    let _ = cx;
}

fn order() -> Order {
    let customer = Customer { id: 7, country: "NO".to_owned() };
    Order { customer, shop: "books".to_owned(), parcels: vec![1, 2] }
}

#[test]
fn steps_state_their_limits() {
    for (step, limit) in [
        (Checkout::Reserve, None),
        (Checkout::Charge, Some(StepLimit::new("stripe"))),
        (Checkout::Pack, Some(StepLimit::new("packers").weight(3).keyed())),
        (Checkout::Ship, Some(StepLimit::new("carrier").keyed())),
        (Checkout::Report, Some(StepLimit::new("reports: \"all\"").weight(2).keyed())),
        (Checkout::Bill, Some(StepLimit::new("carrier").weight(1_000_000))),
    ] {
        assert_eq!(step.limit(), limit, "{}", step.name());
    }
    assert_eq!(SendMail::Run.limit(), Some(StepLimit::new("mail").keyed()));
    assert_eq!(CallTheCarrier::Run.limit(), Some(StepLimit::new("carrier")));
}

#[test]
fn the_state_gives_a_run_its_key() {
    for (step, key) in [
        (Checkout::Reserve, None),
        (Checkout::Charge, None),
        (Checkout::Pack, Some("7")),
        (Checkout::Ship, Some("lane 2")),
        (Checkout::Report, Some("books/NO")),
        (Checkout::Bill, None),
    ] {
        assert_eq!(step.limit_key(&order()).as_deref(), key, "{}", step.name());
    }
    let to = "ada@example.org".to_owned();
    assert_eq!(SendMail::Run.limit_key(&to).as_deref(), Some("example.org"));
    assert_eq!(CallTheCarrier::Run.limit_key(&()), None);
}

#[test]
fn the_graph_shows_the_limits() {
    let graph = Checkout::graph();
    let limit = |step| graph.step(step).and_then(|step| step.limit);
    assert_eq!(limit("reserve"), None);
    assert_eq!(limit("ship"), Checkout::Ship.limit());
    assert_eq!(limit("report"), Checkout::Report.limit());
    assert!(
        graph.to_json().contains(
            r#""transactional":true,"limit":{"name":"stripe","weight":1,"keyed":false}}"#
        )
    );

    let mermaid = graph.to_mermaid();
    for note in [
        "note left of charge : runs in a transaction, limit stripe\n",
        "note left of pack : limit packers for each key, weight 3\n",
        "note left of ship : limit carrier for each key\n",
        // A colon would end the note.
        "note left of report : limit reports#58; #34;all#34; for each key, weight 2\n",
        "note left of bill : limit carrier, weight 1000000\n",
    ] {
        assert!(mermaid.contains(note), "{note}{mermaid}");
    }
    assert!(!mermaid.contains("note left of reserve"), "{mermaid}");

    let dot = graph.to_dot();
    for line in [
        r#""charge" [peripheries=2];"#,
        r#""charge" [label="charge\nlimit stripe"];"#,
        r#""report" [label="report\nlimit reports: \"all\" for each key, weight 2"];"#,
    ] {
        assert!(dot.contains(line), "{line}\n{dot}");
    }
}

#[test]
fn a_machine_written_by_hand_states_the_limit_in_its_graph() {
    let limit = StepLimit::new("stripe").weight(2);
    let graph = Graph::new::<Checkout>([StepNode::new("charge", [Edge::Done]).limit(limit)]);
    assert_eq!(graph.step("charge").and_then(|step| step.limit), Some(limit));
    assert!(graph.to_mermaid().contains("note left of charge : limit stripe, weight 2\n"));
}
