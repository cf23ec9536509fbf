//! Two plans in turns, so that whatever the machine does meanwhile happens to both.
//!
//! Clock, temperature and the load of others change by more than a format saves, but not much within seconds. So every
//! figure of a plan stands beside one of the reference that was taken right before or after it, in the order reference,
//! plan, plan, reference, and only their ratio counts.

use joulewise_engine::Session;
use serde::{Deserialize, Serialize};

use super::group::Group;
use super::median::Median;
use super::request::{Request, RequestCost};
use crate::error::{ProfilerError, Result};
use crate::experiment::Protocol;
use crate::profile::Setup;

/// A plan and the reference, one right after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// The reference.
    pub reference: RequestCost,
    /// The plan.
    pub own: RequestCost,
}

/// What a request is measured with.
pub struct Bench<'a> {
    /// The work.
    pub request: &'a Request,
    /// Groups whose costs are kept apart.
    pub groups: &'a [Group],
    /// The sensors and how they are used.
    pub setup: &'a Setup<'a>,
    /// Whether the user wants to stop.
    pub is_interrupted: &'a dyn Fn() -> bool,
}

impl Bench<'_> {
    /// Two turns: reference, plan, plan, reference; a drift that goes on evenly cancels in their mean. Before the first,
    /// the device has rested while weights were packed; `warm_up_s` is the most that it is given to get warm again.
    ///
    /// # Errors
    /// Those of the engine, and [`ProfilerError::Protocol`] when the user wants to stop.
    pub fn turns(&self, reference: &mut Session, own: &mut Session, warm_up_s: f64) -> Result<Vec<Turn>> {
        let protocol = Protocol { warm_up_limit_s: warm_up_s, ..self.setup.protocol.clone() };
        let setup = Setup { protocol: &protocol, work: self.setup.work.clone(), ..*self.setup };
        let before = Bench { setup: &setup, ..*self }.cost(reference)?;
        let first = Turn { reference: before, own: self.cost(own)? };
        let own = self.cost(own)?;
        let second = Turn { reference: self.cost(reference)?, own };
        Ok(vec![first, second])
    }

    fn cost(&self, session: &mut Session) -> Result<RequestCost> {
        let cost = RequestCost::measure(session, self.request, self.groups, self.setup, self.is_interrupted)?;
        if (self.is_interrupted)() {
            return Err(ProfilerError::Protocol("interrupted while measuring energy".to_owned()));
        }
        Ok(cost)
    }
}

/// Some figure of the plan, as a multiple of the reference's: the median over turns that have both.
pub fn relative_to_reference(turns: &[Turn], of: impl Fn(&RequestCost) -> Option<f64>) -> Median {
    let ratio = |turn: &Turn| {
        let (own, reference) = (of(&turn.own)?, of(&turn.reference)?);
        (reference > 0.0).then(|| own / reference)
    };
    Median::of(&turns.iter().filter_map(ratio).collect::<Vec<f64>>())
}
