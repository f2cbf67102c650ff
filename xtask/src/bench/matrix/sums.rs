//! Rounds together: medians, ranges, and ratios of what took turns.
use super::contender::{Contender, FLOOR, Side};
use super::record::{Figures, Record, Turn};
use super::scenario::Scenario;

/// One server in one row, all rounds.
pub struct Cell<'a> {
    /// Its name.
    pub server: &'a str,
    /// Whose it is.
    pub side: Side,
    /// In order.
    pub turns: Vec<&'a Turn>,
}

/// One row.
pub struct Row<'a> {
    /// What was asked.
    pub scenario: Scenario,
    /// In the order they were asked in.
    pub cells: Vec<Cell<'a>>,
}

/// Several of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many.
    pub count: usize,
}

/// Rows and their servers, in the order they were measured in first.
pub fn rows(record: &Record) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for turn in &record.turns {
        let at = rows.iter().position(|row| row.scenario == turn.scenario).unwrap_or_else(|| {
            rows.push(Row { scenario: turn.scenario, cells: Vec::new() });
            rows.len() - 1
        });
        let Some(row) = rows.get_mut(at) else { continue };
        match row.cells.iter_mut().find(|cell| cell.server == turn.server) {
            Some(cell) => cell.turns.push(turn),
            None => {
                row.cells.push(Cell { server: &turn.server, side: turn.side, turns: vec![turn] });
            }
        }
    }
    rows
}

impl Spread {
    /// Of those that are numbers, if there are any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let count = values.len();
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values.get((count - 1) / 2)?, values.get(count / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min, max, count })
    }

    /// `median (min to max)`, with so many decimals; one alone is by itself.
    pub fn shown(&self, decimals: usize) -> String {
        let Self { median, min, max, count } = self;
        match count {
            1 => format!("{median:.decimals$}"),
            _ => format!("{median:.decimals$} ({min:.decimals$} to {max:.decimals$})"),
        }
    }
}

impl Cell<'_> {
    /// Of the rounds that count.
    pub fn spread(&self, of: impl Fn(&Figures) -> f64) -> Option<Spread> {
        Spread::of(self.turns.iter().filter_map(|turn| Some(of(turn.counts()?))))
    }

    /// The median of the rounds that count; NaN without any.
    pub fn median(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        self.spread(of).map_or(f64::NAN, |spread| spread.median)
    }

    /// Of all rounds that gave figures, void ones too, which say so beside them.
    pub fn shown(&self, of: impl Fn(&Figures) -> f64) -> Option<Spread> {
        Spread::of(self.turns.iter().filter_map(|turn| turn.outcome.as_ref().ok()).map(of))
    }

    /// Whether all of its rounds count.
    pub fn is_good(&self) -> bool {
        self.turns.iter().all(|turn| turn.counts().is_some())
    }

    /// Round by round its figure over that of `other`, where both count.
    pub fn ratio(&self, other: &Self, of: impl Fn(&Figures) -> f64) -> Option<Spread> {
        let each = self.turns.iter().filter_map(|turn| {
            let mut others = other.turns.iter().filter(|other| other.round == turn.round);
            let (ours, theirs) = (of(turn.counts()?), of(others.next()?.counts()?));
            (theirs > 0.0).then(|| ours / theirs)
        });
        Spread::of(each)
    }
}

impl<'a> Row<'a> {
    /// That of a server.
    pub fn cell(&self, server: &str) -> Option<&Cell<'a>> {
        self.cells.iter().find(|cell| cell.server == server)
    }

    /// Ours as it comes.
    pub fn ours(&self) -> Option<&Cell<'a>> {
        self.cell(&Contender::Ours.name())
    }

    /// The other server.
    pub fn peer(&self) -> Option<&Cell<'a>> {
        self.cells.iter().find(|cell| cell.side == Side::Peer)
    }

    /// The floor that writes like ours, if it was asked; else what there is of them.
    pub fn floor(&self) -> Option<&Cell<'a>> {
        self.cell(&FLOOR.name()).or_else(|| self.cells.iter().find(|one| one.side == Side::Floor))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Host;
    use super::super::record::tests::{good, turn};
    use super::super::scenario::MAIN;
    use super::*;

    fn cpu(cpu: f64) -> Figures {
        Figures { cpu, ..good() }
    }

    fn record(turns: Vec<Turn>) -> Record {
        Record { turns, ..Record::new(Host::default()) }
    }

    #[test]
    fn medians_and_ranges() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let three = spread(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((three.median, three.min, three.max), (2.0, 1.0, 3.0));
        assert_eq!(three.shown(1), "2.0 (1.0 to 3.0)");
        let two = spread(&[f64::NAN, 4.0, 2.0]).unwrap();
        assert_eq!((two.median, two.count), (3.0, 2));
        assert_eq!(spread(&[4.0]).unwrap().shown(2), "4.00");
        assert_eq!(spread(&[f64::NAN]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round_and_of_turns_that_count() {
        let void = Figures { delivered: 0.9, below: 3, ..cpu(1.0) };
        let turns = vec![
            turn(MAIN, "ours", 1, cpu(10.0)),
            turn(MAIN, "nginx-rtmp", 1, cpu(20.0)),
            turn(MAIN, "ours", 2, cpu(30.0)),
            turn(MAIN, "nginx-rtmp", 2, void),
            turn(MAIN, "ours", 3, cpu(12.0)),
            turn(MAIN, "nginx-rtmp", 3, cpu(16.0)),
        ];
        let record = record(turns);
        let rows = rows(&record);
        assert_eq!((rows.len(), rows[0].cells.len()), (1, 2));
        let (ours, peer) = (rows[0].ours().unwrap(), rows[0].peer().unwrap());
        let ratio = ours.ratio(peer, |figures| figures.cpu).unwrap();
        assert_eq!((ratio.count, ratio.min, ratio.max), (2, 0.5, 0.75));
        assert_eq!((ours.median(|f| f.cpu), peer.median(|f| f.cpu)), (12.0, 18.0));
        assert!(ours.is_good() && !peer.is_good());
        assert_eq!(peer.shown(|f| f.cpu).unwrap().count, 3);
        assert!(rows[0].floor().is_none());
    }

    #[test]
    fn without_a_peer_that_counts_there_is_no_ratio() {
        let mut peer = turn(MAIN, "nginx-rtmp", 1, good());
        peer.outcome = Err("died".into());
        let record = record(vec![turn(MAIN, "ours", 1, good()), peer]);
        let rows = rows(&record);
        assert_eq!(rows[0].ours().unwrap().ratio(rows[0].peer().unwrap(), |f| f.cpu), None);
        assert!(rows[0].peer().unwrap().median(|f| f.cpu).is_nan());
    }
}
