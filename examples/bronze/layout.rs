//! Which objects there are: each is a pure function of job and index, so that nothing about them is kept in memory and
//! any thread may write any of them. Main objects come first (year_root, then firehose), the odd ones after them.

use crate::args::{Codec, Delimiter, Settings};
use crate::entities::Entity;
use crate::mess::{self, D, Scope};
use crate::names;
use crate::rng::{Rng, hash, hash_text};
use crate::text;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Firehose,
    YearRoot,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Records,
    /// One record is larger than the limit.
    Huge,
    Empty,
    /// A gzip object cut after its header: nothing can be decoded.
    Corrupt,
    /// Not a data object: a marker, or Firehose's error output.
    Foreign,
}

/// How records are put together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Concatenated,
    Lines,
    CrLf,
    Array,
    Envelope,
    Pretty,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
}

#[derive(Clone, Copy)]
pub enum Limit {
    Records(u64),
    Bytes(u64),
}

#[expect(clippy::struct_excessive_bools, reason = "each is an oddity that an object has or has not")]
pub struct Object {
    pub index: u64,
    pub seed: u64,
    pub purpose: Purpose,
    pub layout: Layout,
    /// Relative to the bronze root.
    pub key: String,
    pub year: i64,
    /// Days since 1970 on which its records arrived: the first, and how many.
    pub first_day: i64,
    pub days: u64,
    pub form: Form,
    pub packing: Packing,
    pub byte_order_mark: bool,
    pub blank_lines: bool,
    pub final_newline: bool,
    pub many_members: bool,
    /// Ends with a record that is cut.
    pub truncated: bool,
    pub limit: Limit,
    /// The number of its first record within entity and database.
    pub first_number: u64,
}

impl Object {
    /// The version of a record that names none: the rule of FaultData and Device; for all others 1.
    pub fn default_version(&self, entity: &Entity) -> u32 {
        if self.layout == Layout::YearRoot && self.year <= 2024 { 1 } else { entity.version }
    }

    pub fn allows(&self, scope: Scope, entity: &Entity) -> bool {
        let lines = matches!(self.form, Form::Lines | Form::CrLf);
        match scope {
            Scope::Anywhere => true,
            Scope::Framed => lines || self.form == Form::Concatenated,
            Scope::Lines => lines,
            Scope::YearRoot => self.layout == Layout::YearRoot,
            Scope::YearRootUntimed => self.layout == Layout::YearRoot && !entity.event_time,
        }
    }
}

/// One entity of one country.
pub struct Job<'a> {
    pub settings: &'a Settings,
    pub entity: &'static Entity,
    pub country: String,
    pub database: String,
    pub seed: u64,
    /// Which of the defects is the first to come up.
    pub phase: u64,
    pub defects: Vec<&'static D>,
    /// Number of the entity, for ids.
    pub ordinal: u64,
    /// Bytes of a record, about.
    pub average: u64,
    /// How much the main objects hold together.
    total: Limit,
    main: u64,
    pub year_root: u64,
    truncated_share: f64,
    extras: [(Purpose, u64); 4],
}

impl<'a> Job<'a> {
    /// `budget`: decoded bytes of this job where the size is given and not the number of records.
    pub fn new(settings: &'a Settings, ordinal: u64, entity: &'static Entity, country: &str, budget: Option<u64>, average: u64) -> Self {
        let selected = |code: &str| settings.defects.iter().any(|wanted| wanted == "all" || wanted == code);
        let defects: Vec<&'static D> = mess::GENERAL
            .iter()
            .chain(entity.defects)
            .filter(|defect| selected(defect.0) && (defect.1 != Scope::YearRootUntimed || !entity.event_time))
            .collect();
        let messy = settings.mess > 0.0;
        let seed = hash(&[settings.seed, hash_text(entity.name), hash_text(country)]);

        let expected = budget.map_or(settings.records, |bytes| bytes / average.max(1));
        let per_defect = settings.mess * expected as f64 / (defects.len() + 2) as f64;
        let guess = (expected * average).div_ceil(settings.object_bytes).max(1);
        let corrupt = if messy && selected(mess::CORRUPT) { (per_defect as u64).clamp(1, guess / 10 + 1) } else { 0 };
        let empty = if messy { 1 + guess / 50 } else { 0 };
        let foreign = if messy { 2 + guess / 100 } else { 0 };
        let extras = [(Purpose::Huge, settings.huge), (Purpose::Corrupt, corrupt), (Purpose::Empty, empty), (Purpose::Foreign, foreign)];

        let both = settings.year_root_share > 0.0 && settings.year_root_share < 1.0;
        let (total, main) = match budget {
            Some(bytes) => (Limit::Bytes(bytes), bytes.div_ceil(settings.object_bytes).max(if both { 2 } else { 1 })),
            None => {
                let records = settings.records.saturating_sub(corrupt + settings.huge * HUGE_RECORDS);
                let objects = (records * average).div_ceil(settings.object_bytes).max(if both { 2 } else { 1 });
                (Limit::Records(records), objects.min(records))
            }
        };
        let mut year_root = (main as f64 * settings.year_root_share).round() as u64;
        if both && main >= 2 {
            year_root = year_root.clamp(1, main - 1);
        }
        let truncated_share =
            if messy && selected(mess::TRUNCATED) { (per_defect / main.max(1) as f64).max(2.0 / main.max(1) as f64).min(0.5) } else { 0.0 };
        let database = format!("fleetdb_{country}");
        let phase = hash(&[seed, 1]) % 1024;
        let country = country.to_owned();
        Self {
            settings,
            entity,
            country,
            database,
            seed,
            phase,
            defects,
            ordinal,
            average,
            total,
            main,
            year_root,
            truncated_share,
            extras,
        }
    }

    pub fn objects(&self) -> u64 {
        self.main + self.extras.iter().map(|(_, count)| count).sum::<u64>()
    }

    pub fn object(&self, index: u64) -> Object {
        let (purpose, nth) = self.purpose(index);
        let seed = hash(&[self.seed, 2, index]);
        let mut rng = Rng::new(seed);
        let layout = self.layout(purpose, index, nth);
        let (first_day, days) = self.days(purpose, layout, index, &mut rng);
        let (year, _, _) = text::civil(first_day);
        let days = (1..=days).take_while(|day| text::civil(first_day + *day as i64 - 1).0 == year).count() as u64;

        let messy = self.settings.mess > 0.0;
        let odd = |every: u64, at: u64| messy && purpose == Purpose::Records && index % every == at;
        let form = self.form(odd(8, 7), index, &mut rng);
        let packing = if purpose == Purpose::Corrupt { Packing::Gzip } else { self.packing(odd(37, 5), &mut rng) };
        let framed = matches!(form, Form::Concatenated | Form::Lines | Form::CrLf);
        let lines = matches!(form, Form::Lines | Form::CrLf);
        let (limit, first_number) = self.share(purpose, index);
        let steps = |at: u64| (at as f64 * self.truncated_share + 0.5).floor();
        let cut = purpose == Purpose::Records && framed && steps(index + 1) > steps(index);
        let mut object = Object {
            index,
            seed,
            purpose,
            layout,
            key: String::new(),
            year,
            first_day,
            days,
            form,
            packing,
            byte_order_mark: odd(11, 3),
            blank_lines: odd(5, 1) && lines,
            final_newline: rng.permille(800),
            many_members: odd(6, 0) && packing == Packing::Gzip,
            truncated: cut && !matches!(limit, Limit::Records(records) if records < 3),
            limit,
            first_number,
        };
        object.key = names::key(self, &object, nth, odd(9, 2), odd(13, 4), &mut rng);
        object
    }

    /// What an object is for, and the how manieth of its kind it is.
    fn purpose(&self, index: u64) -> (Purpose, u64) {
        let Some(mut nth) = index.checked_sub(self.main) else {
            return (Purpose::Records, index);
        };
        for (purpose, count) in self.extras {
            if nth < count {
                return (purpose, nth);
            }
            nth -= count;
        }
        (Purpose::Empty, nth)
    }

    fn layout(&self, purpose: Purpose, index: u64, nth: u64) -> Layout {
        let year_root = match purpose {
            Purpose::Records => index < self.year_root,
            _ if self.settings.year_root_share >= 1.0 => true,
            _ => self.settings.year_root_share > 0.0 && nth.is_multiple_of(2),
        };
        if year_root { Layout::YearRoot } else { Layout::Firehose }
    }

    /// The days on which the records of an object arrived. year_root has the earlier days, firehose the later ones.
    fn days(&self, purpose: Purpose, layout: Layout, index: u64, rng: &mut Rng) -> (i64, u64) {
        let all = self.settings.days;
        let early = (all as f64 * self.settings.year_root_share).round() as u64;
        let (first, count) = match layout {
            Layout::YearRoot => (0, early.max(1)),
            Layout::Firehose => (early.min(all - 1), all - early.min(all - 1)),
        };
        let (nth, of) = match (purpose, layout) {
            (Purpose::Records, Layout::YearRoot) => (index, self.year_root),
            (Purpose::Records, Layout::Firehose) => (index - self.year_root, self.main - self.year_root),
            _ => (rng.below(count), count),
        };
        let day = |nth: u64| (u128::from(nth) * u128::from(count) / u128::from(of.max(1))) as u64;
        let days = if layout == Layout::YearRoot { (day(nth + 1) - day(nth)).max(1) } else { 1 };
        (self.settings.first_day + (first + day(nth)) as i64, days)
    }

    fn form(&self, odd: bool, index: u64, rng: &mut Rng) -> Form {
        let lines = match self.settings.delimiter {
            Delimiter::None => false,
            Delimiter::Newline => true,
            Delimiter::Mixed => rng.permille(500),
        };
        match (odd, index / 8 % 4) {
            (true, 0) => Form::Array,
            (true, 1) => Form::Envelope,
            (true, 2) => Form::Pretty,
            (true, _) if lines => Form::CrLf,
            _ if lines => Form::Lines,
            _ => Form::Concatenated,
        }
    }

    fn packing(&self, odd: bool, rng: &mut Rng) -> Packing {
        match (self.settings.codec, rng.below(10)) {
            (Codec::Plain, _) => Packing::Plain,
            (Codec::Gzip, _) => Packing::Gzip,
            (Codec::Zstd, _) => Packing::Zstd,
            (Codec::Mixed, _) if odd => Packing::Bzip2,
            (Codec::Mixed, 0..5) => Packing::Gzip,
            (Codec::Mixed, 5..7) => Packing::Zstd,
            (Codec::Mixed, _) => Packing::Plain,
        }
    }

    /// How much of the total an object holds, and the number of its first record.
    fn share(&self, purpose: Purpose, index: u64) -> (Limit, u64) {
        let part = |total: u64, at: u64| (u128::from(total) * u128::from(at) / u128::from(self.main.max(1))) as u64;
        let room = match self.total {
            Limit::Records(_) => HUGE_RECORDS,
            Limit::Bytes(bytes) => bytes / self.main.max(1) / SHORTEST_RECORD + 1024,
        };
        match (self.total, purpose) {
            (Limit::Records(total), Purpose::Records) => (Limit::Records(part(total, index + 1) - part(total, index)), part(total, index)),
            (Limit::Bytes(total), Purpose::Records) => (Limit::Bytes(part(total, index + 1) - part(total, index)), index * room),
            (Limit::Records(total), _) => (Limit::Records(HUGE_RECORDS), total + (index - self.main) * room),
            (Limit::Bytes(_), _) => (Limit::Records(HUGE_RECORDS), index * room),
        }
    }
}

/// Records of an object that has a huge one among them.
pub const HUGE_RECORDS: u64 = 3;
/// No record is shorter, in bytes.
const SHORTEST_RECORD: u64 = 64;
