//! The pages, as HTML.
//!
//! Invariant: maud escapes every text, so no name can become markup. Nothing here has a style or a
//! script of its own, which the policy of the response forbids anyway.

mod audit;
mod bulk;
mod confirm;
mod doctor;
mod entry;
mod instance;
mod instances;
mod limits;
mod machine;
mod machines;
mod overview;
mod pieces;
mod queues;
mod schedules;
mod shell;
mod workers;

use maud::Markup;

pub(crate) use self::{
    confirm::{Asked, confirm},
    shell::{Notice, failed, page, refused, welcome},
};
use crate::{
    guard::Viewer,
    looks::{Model, Seen},
    view::View,
};

/// A section of a page. The script patches a live one while the page is open.
pub(crate) struct Part {
    pub(crate) id: &'static str,
    /// True if it is replaced when it changes. A form is not: somebody may be filling it in.
    pub(crate) is_live: bool,
    pub(crate) html: Markup,
}

impl Part {
    fn live(id: &'static str, html: Markup) -> Self {
        Self { id, is_live: true, html }
    }

    fn fixed(id: &'static str, html: Markup) -> Self {
        Self { id, is_live: false, html }
    }
}

/// Returns the parts of a view, for one viewer.
pub(crate) fn parts(viewer: &Viewer, view: &View, seen: &Seen) -> Vec<Part> {
    match (&seen.model, view) {
        (Model::Overview(overview), _) => overview::parts(viewer, overview),
        (Model::Instances { list, count }, View::Instances { filter, before }) => {
            instances::parts(viewer, filter, *before, list, *count)
        }
        (Model::Instance(instance), View::Instance { before, .. }) => {
            instance::parts(viewer, *before, instance)
        }
        (Model::Entry(entry), _) => entry::parts(viewer, entry),
        (Model::Machines(machines), _) => machines::parts(viewer, machines),
        (Model::Machine(machine), _) => machine::parts(viewer, machine),
        (Model::Queues(queues), _) => queues::parts(viewer, queues),
        (Model::Limits(limits), _) => limits::parts(viewer, limits),
        (Model::Limit { limit, buckets, waiting }, _) => {
            limits::one(viewer, limit, buckets, waiting)
        }
        (Model::Schedules(schedules), View::Schedules { after }) => {
            schedules::parts(viewer, schedules, after.as_deref())
        }
        (Model::Workers(workers), _) => workers::parts(viewer, workers),
        (Model::Doctor(findings), _) => doctor::parts(viewer, findings),
        (Model::Audit(page), View::Audit { filter, before }) => {
            audit::parts(viewer, filter, *before, page)
        }
        (Model::Bulk(standing), _) => bulk::parts(viewer, standing),
        // A look answers with the model of its view.
        (
            Model::Instances { .. } | Model::Instance(_) | Model::Schedules(_) | Model::Audit(_),
            _,
        ) => Vec::new(),
    }
}
