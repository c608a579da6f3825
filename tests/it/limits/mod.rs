//! Property 44: limits hold across the fleet, whatever happens to its processes, and hold up
//! nothing else.

mod changes;
mod operated;
mod processes;
mod races;
mod turns;
