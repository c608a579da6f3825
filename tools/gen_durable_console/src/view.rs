//! The views that pages show, and the URL of each.
//!
//! Invariant: a view holds all that its look needs. Viewers of equal views can share one look.

use crate::{
    filter::Filter,
    url::{BadParam, Params, Query},
};

/// A view, which a page shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum View {
    Overview,
    Instances {
        filter: Filter,
        before: Option<i64>,
    },
    /// An instance, with the runs before an entry of its history, or its newest ones.
    Instance {
        id: i64,
        before: Option<i64>,
    },
    /// A run of an instance, by the number of its entry in the history.
    Entry {
        instance: i64,
        entry: i64,
    },
    Machines,
    Machine {
        name: String,
        version: Option<u32>,
    },
    Queues,
    Limits,
    Limit {
        name: String,
        after: Option<String>,
    },
    Schedules {
        after: Option<String>,
    },
    Workers,
    Doctor,
    Audit {
        filter: AuditFilter,
        before: Option<i64>,
    },
    /// An action on many instances.
    Bulk {
        id: u64,
    },
}

/// A choice of operators' actions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct AuditFilter {
    pub(crate) instance: Option<i64>,
    pub(crate) actor: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) machine: Option<String>,
}

/// The reason why a path and a query are no view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoView {
    Unknown,
    Bad(BadParam),
}

impl From<BadParam> for NoView {
    fn from(bad: BadParam) -> Self {
        Self::Bad(bad)
    }
}

impl View {
    /// Reads a path within the console, without slashes at its ends, and a query.
    pub(crate) fn read(path: &str, params: &Params) -> Result<Self, NoView> {
        let mut parts = path.splitn(2, '/');
        let (page, rest) = (parts.next().unwrap_or_default(), parts.next());
        Ok(match (page, rest) {
            ("", None) => Self::Overview,
            ("instances", None) => {
                Self::Instances { filter: Filter::read(params)?, before: params.read("before")? }
            }
            ("instances", Some(rest)) => {
                let number = |text: &str| text.parse().map_err(|_| NoView::Unknown);
                match rest.split_once('/') {
                    None => Self::Instance { id: number(rest)?, before: params.read("before")? },
                    Some((id, entry)) => {
                        Self::Entry { instance: number(id)?, entry: number(entry)? }
                    }
                }
            }
            ("machines", None) => Self::Machines,
            ("machine", None) => {
                Self::Machine { name: params.need("name")?, version: params.read("version")? }
            }
            ("queues", None) => Self::Queues,
            ("limits", None) => Self::Limits,
            ("limit", None) => {
                Self::Limit { name: params.need("name")?, after: params.owned("after") }
            }
            ("schedules", None) => Self::Schedules { after: params.owned("after") },
            ("workers", None) => Self::Workers,
            ("doctor", None) => Self::Doctor,
            ("audit", None) => {
                let filter = AuditFilter {
                    instance: params.read("instance")?,
                    actor: params.owned("actor"),
                    action: params.owned("action"),
                    machine: params.owned("machine"),
                };
                Self::Audit { filter, before: params.read("before")? }
            }
            ("bulk", Some(id)) => Self::Bulk { id: id.parse().map_err(|_| NoView::Unknown)? },
            _ => return Err(NoView::Unknown),
        })
    }

    /// Returns the path and the query within the console.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Overview => String::new(),
            Self::Instances { filter, before } => {
                filter.fields().maybe("before", *before).on("/instances")
            }
            Self::Instance { id, before } => {
                Query::new().maybe("before", *before).on(&format!("/instances/{id}"))
            }
            Self::Entry { instance, entry } => format!("/instances/{instance}/{entry}"),
            Self::Machines => "/machines".to_owned(),
            Self::Machine { name, version } => {
                Query::new().with("name", name).maybe("version", *version).on("/machine")
            }
            Self::Queues => "/queues".to_owned(),
            Self::Limits => "/limits".to_owned(),
            Self::Limit { name, after } => {
                Query::new().with("name", name).maybe("after", after.as_ref()).on("/limit")
            }
            Self::Schedules { after } => {
                Query::new().maybe("after", after.as_ref()).on("/schedules")
            }
            Self::Workers => "/workers".to_owned(),
            Self::Doctor => "/doctor".to_owned(),
            Self::Audit { filter, before } => Query::new()
                .maybe("instance", filter.instance)
                .maybe("actor", filter.actor.as_ref())
                .maybe("action", filter.action.as_ref())
                .maybe("machine", filter.machine.as_ref())
                .maybe("before", *before)
                .on("/audit"),
            Self::Bulk { id } => format!("/bulk/{id}"),
        }
    }

    /// True if it may change while somebody looks at it. A recorded run does not.
    pub(crate) const fn is_live(&self) -> bool {
        !matches!(self, Self::Entry { .. })
    }

    /// Returns the page of the navigation to which it belongs.
    pub(crate) fn section(&self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Instances { .. }
            | Self::Instance { .. }
            | Self::Entry { .. }
            | Self::Bulk { .. } => "instances",
            Self::Machines | Self::Machine { .. } => "machines",
            Self::Queues => "queues",
            Self::Limits | Self::Limit { .. } => "limits",
            Self::Schedules { .. } => "schedules",
            Self::Workers => "workers",
            Self::Doctor => "doctor",
            Self::Audit { .. } => "audit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<View, NoView> {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned()
        };
        let params = pairs.map(|(name, value)| (decode(name), decode(value))).collect();
        View::read(path.trim_matches('/'), &Params(params))
    }

    #[test]
    fn each_view_is_read_back_from_its_url() {
        let hostile = "../a/b?c=\"<script>&#".to_owned();
        let filter = Filter::of_step(&hostile, &hostile);
        let audit = AuditFilter { actor: Some(hostile.clone()), ..AuditFilter::default() };
        for view in [
            View::Overview,
            View::Instances { filter, before: Some(i64::MAX) },
            View::Instance { id: 9_007_199_254_740_993, before: None },
            View::Instance { id: 1, before: Some(9_007_199_254_740_993) },
            View::Entry { instance: 9_007_199_254_740_993, entry: i64::MAX },
            View::Machines,
            View::Machine { name: hostile.clone(), version: Some(3) },
            View::Queues,
            View::Limits,
            View::Limit { name: hostile.clone(), after: Some(hostile.clone()) },
            View::Schedules { after: Some(hostile.clone()) },
            View::Workers,
            View::Doctor,
            View::Audit { filter: audit, before: None },
            View::Bulk { id: 7 },
        ] {
            assert_eq!(read(&view.path()), Ok(view.clone()), "{}", view.path());
        }
    }

    #[test]
    fn other_urls_are_no_view() {
        for url in
            ["/x", "/instances/x", "/instances/1/x", "/instances/1/2/3", "/bulk", "/queues/", "//x"]
        {
            assert_eq!(read(url).is_ok(), url == "/queues/", "{url}");
        }
        assert_eq!(read("/machine"), Err(NoView::Bad(BadParam("name"))));
        assert_eq!(read("/audit?instance=x"), Err(NoView::Bad(BadParam("instance"))));
    }
}
