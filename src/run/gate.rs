//! The gate: whether a staged batch may become visible. It judges the batch and the run so far.

use crate::domain::Records;
use crate::job::Gate;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Pass,
    Warn(String),
    Stop(String),
}

pub fn judge(gate: &Gate, batch: &Records, before: &Records) -> Judgement {
    let mut run = *before;
    run += *batch;
    for (what, records) in [("this batch", batch), ("the run so far", &run)] {
        let share = share(records);
        if records.quarantined >= gate.share_from && share > gate.max_reject_share {
            return Judgement::Stop(format!(
                "{} of {} records of {what} were refused ({:.1} %), the job allows {:.1} % (gate.max_reject_share)",
                records.quarantined,
                records.read,
                share * 100.0,
                gate.max_reject_share * 100.0
            ));
        }
        if let Some(most) = gate.max_reject_count.filter(|most| records.quarantined > *most) {
            return Judgement::Stop(format!(
                "{} records of {what} were refused, the job allows {most} (gate.max_reject_count)",
                records.quarantined
            ));
        }
    }
    if batch.quarantined > 0 && share(batch) > gate.warn_share {
        return Judgement::Warn(format!(
            "{} of {} records were refused ({:.1} %), more than gate.warn_share ({:.1} %)",
            batch.quarantined,
            batch.read,
            share(batch) * 100.0,
            gate.warn_share * 100.0
        ));
    }
    Judgement::Pass
}

fn share(records: &Records) -> f64 {
    if records.read == 0 { 0.0 } else { records.quarantined as f64 / records.read as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATE: Gate = Gate { max_reject_share: 0.10, share_from: 1000, max_reject_count: None, warn_share: 0.01 };

    fn records(read: u64, quarantined: u64) -> Records {
        Records { read, quarantined, inserted: read - quarantined, ..Records::default() }
    }

    #[test]
    fn a_share_stops_only_from_many_rejects_on() {
        assert!(matches!(judge(&GATE, &records(10, 9), &Records::default()), Judgement::Warn(_)));
        assert!(matches!(judge(&GATE, &records(5000, 999), &Records::default()), Judgement::Warn(_)));
        assert!(matches!(judge(&GATE, &records(5000, 1000), &Records::default()), Judgement::Stop(_)));
        assert_eq!(judge(&GATE, &records(10_000, 100), &Records::default()), Judgement::Pass);
    }

    #[test]
    fn the_run_so_far_counts() {
        assert!(matches!(judge(&GATE, &records(1000, 500), &records(4000, 600)), Judgement::Stop(_)));
        let count = Gate { max_reject_count: Some(3), ..GATE };
        assert!(matches!(judge(&count, &records(100, 2), &records(100, 2)), Judgement::Stop(_)));
    }
}
