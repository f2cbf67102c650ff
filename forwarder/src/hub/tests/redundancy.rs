//! Several publishers of one stream: what its readers get is compared with what each of them sent.

use proptest::prelude::*;

use super::*;

const RULES: Rules =
    Rules { second: Second::StandBy, standbys: 1, switch_after: Duration::from_millis(250) };
const METADATA: &[u8] = b"\x02\x00\x0aonMetaData\x05";

/// A stream with its publishers, and a reader that was there from the beginning.
struct Race {
    hub: Hub,
    view: View,
    start: Instant,
    now: Instant,
}

/// An encoder: frames of 40 ms, a keyframe every `gop`, audio between them.
struct Encoder {
    publisher: Publisher,
    name: u8,
    /// Its clock at frame 0.
    zero: u32,
    gop: u32,
    frame: u32,
}

type Got = (u8, u32, Vec<u8>);

impl Race {
    fn new() -> Self {
        let (hub, start) = (Hub::new(), Instant::now());
        let view = hub.stream(&key(), options(), start).view(Box::<Bell>::default());
        Self { hub, view, start, now: start }
    }

    fn try_enter(&self, name: u8, rules: Rules) -> Result<Publisher, Busy> {
        let source = Source { peer: char::from(name).to_string(), ..Source::default() };
        self.hub.compete(&key(), options(), source, rules, self.now)
    }

    /// With its headers said.
    fn enter(&mut self, name: u8, zero: u32, rules: Rules) -> Encoder {
        let publisher = self.try_enter(name, rules).unwrap();
        let mut encoder = Encoder { publisher, name, zero, gop: 5, frame: 0 };
        encoder.put(MediaKind::Data, 0, METADATA, self.now);
        encoder.put(MediaKind::Video, zero, &[0x17, 0, 0, 0, 0, name], self.now);
        encoder.put(MediaKind::Audio, zero, &[0xaf, 0, 0x12, 0x10], self.now);
        encoder
    }

    /// All encoders send their next `n` frames, in time.
    fn run(&mut self, encoders: &mut [&mut Encoder], n: usize) {
        for _ in 0..n {
            for encoder in &mut *encoders {
                encoder.next(self.now);
            }
            self.now += Duration::from_millis(40);
        }
    }

    fn got(&mut self) -> Vec<Got> {
        self.view.refresh();
        decode(&read(&self.view, 0))
    }

    fn elapsed(&self) -> u32 {
        u32::try_from((self.now - self.start).as_millis()).unwrap()
    }

    fn publisher(&self) -> String {
        self.hub.find(&key()).unwrap().source().peer
    }

    fn standbys(&self) -> usize {
        self.hub.find(&key()).unwrap().standbys(self.now).len()
    }
}

impl Encoder {
    fn put(&mut self, kind: MediaKind, timestamp: u32, payload: &[u8], now: Instant) {
        let media = MediaMessage { kind, timestamp: Timestamp(timestamp), msid: 1, payload };
        self.publisher.append(&media, now).unwrap();
        self.publisher.flush();
    }

    fn next(&mut self, now: Instant) {
        let [video, audio] = self.at(self.frame);
        self.put(MediaKind::Video, video.1, &video.2, now);
        self.put(MediaKind::Audio, audio.1, &audio.2, now);
        self.frame += 1;
    }

    /// What it sends as frame `n`.
    fn at(&self, n: u32) -> [Got; 2] {
        let time = self.zero.wrapping_add(n * 40);
        let first = if n.is_multiple_of(self.gop) { 0x17 } else { 0x27 };
        let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
        let video = vec![first, 1, 0, 0, 0, self.name, high, low];
        [(9, time, video), (8, time.wrapping_add(15), vec![0xaf, 1, self.name, high, low])]
    }
}

fn is_header(got: &Got) -> bool {
    got.0 == 18 || got.2[1] == 0
}

/// The times of each kind never go back.
fn assert_monotonic(got: &[Got]) {
    for kind in [8, 9] {
        let times: Vec<u32> = got.iter().filter(|it| it.0 == kind).map(|it| it.1).collect();
        for pair in times.windows(2) {
            assert!(Timestamp(pair[1]).since(Timestamp(pair[0])) >= 0, "{kind}: {pair:?}");
        }
    }
}

#[test]
fn who_stands_by_goes_on_at_its_keyframe_when_the_first_ends() {
    let mut race = Race::new();
    let mut a = race.enter(b'a', 1000, RULES);
    let mut b = race.enter(b'b', 4_000_000_000, RULES);
    assert!(b.publisher.stands_by() && !a.publisher.stands_by());
    race.run(&mut [&mut a, &mut b], 13);
    assert!(race.got().iter().all(|got| !got.2.contains(&b'b')), "b is shown to nobody");
    let before = race.got().len();
    drop(a);
    assert_eq!(race.publisher(), "b");
    let got = race.got();
    // last time of a: audio at 1000 + 12 * 40 + 15
    let (last, frame) = (1495, 40);
    assert_eq!(
        got[before],
        (9, last + frame, vec![0x17, 0, 0, 0, 0, b'b']),
        "the header that differs"
    );
    let from = |n: u32| (n - 10) * 40 + last + frame;
    let want: Vec<Got> = (10..13)
        .flat_map(|n| {
            let [video, audio] = b.at(n);
            [(9, from(n), video.2), (8, from(n) + 15, audio.2)]
        })
        .collect();
    assert_eq!(got[before + 1..], want, "its newest group of pictures");
    race.run(&mut [&mut b], 4);
    let got = race.got();
    assert_eq!(got.len(), before + 1 + want.len() + 8);
    assert_eq!(got.last().map(|got| got.1), Some(from(16) + 15));
    assert_monotonic(&got);
    assert_eq!((race.hub.switches(), race.standbys()), (1, 0));
}

#[test]
fn silence_is_an_end_too_and_who_was_silent_stands_by() {
    let mut race = Race::new();
    let mut a = race.enter(b'a', 0, RULES);
    let mut b = race.enter(b'b', 70_000, RULES);
    race.run(&mut [&mut a, &mut b], 10);
    let silent_since = race.now - Duration::from_millis(40);
    while race.publisher() == "a" {
        race.run(&mut [&mut b], 1);
        assert!(race.now - silent_since < Duration::from_millis(330), "not soon enough");
    }
    assert!(race.now - silent_since >= Duration::from_millis(250), "too soon");
    let len = race.got().len();
    race.run(&mut [&mut a, &mut b], 20);
    assert_eq!((race.publisher(), race.standbys()), ("b".to_owned(), 1));
    let got = race.got();
    assert!(got[len..].iter().all(|got| !got.2.contains(&b'a')), "a is back, and stands by");
    drop(b);
    assert_eq!(race.publisher(), "a");
    race.run(&mut [&mut a], 3);
    assert_monotonic(&race.got());
    assert_eq!(race.hub.switches(), 2);
}

#[test]
fn a_large_message_on_its_way_is_no_silence_and_neither_is_a_slow_stream() {
    let mut race = Race::new();
    let mut a = race.enter(b'a', 0, RULES);
    let mut b = race.enter(b'b', 0, RULES);
    race.run(&mut [&mut a, &mut b], 10);
    for _ in 0..20 {
        a.publisher.alive(race.now);
        race.run(&mut [&mut b], 1);
    }
    assert_eq!(race.publisher(), "a", "parts of a message came");

    let mut race = Race::new();
    let mut a = race.enter(b'a', 0, RULES);
    for n in 0..20 {
        a.put(MediaKind::Video, n * 500, &video(0x17, n, 9), race.now);
        race.now += Duration::from_millis(500);
    }
    let mut b = race.enter(b'b', 0, RULES);
    race.run(&mut [&mut b], 11);
    assert_eq!(race.publisher(), "a", "two frames a second");
    race.run(&mut [&mut b], 20);
    assert_eq!(race.publisher(), "b");
}

#[test]
fn a_stall_of_all_is_no_ones_silence() {
    let mut race = Race::new();
    let mut a = race.enter(b'a', 0, RULES);
    let mut b = race.enter(b'b', 0, RULES);
    race.run(&mut [&mut a, &mut b], 10);
    race.now += Duration::from_secs(2);
    b.next(race.now);
    race.now += Duration::from_millis(10);
    race.run(&mut [&mut a, &mut b], 10);
    assert_eq!(race.publisher(), "a");
}

#[test]
fn of_the_same_stream_nothing_is_missing_and_nothing_comes_twice() {
    // `behind`: how many frames the second is behind the first
    for behind in [0, 3, 5, -1] {
        let mut race = Race::new();
        let mut a = race.enter(b'a', 500, RULES);
        let mut b = race.enter(b'a', 500, RULES);
        race.run(&mut [&mut a, &mut b], 20);
        if behind >= 0 {
            race.run(&mut [&mut a], usize::try_from(behind).unwrap());
        } else {
            b.next(race.now);
        }
        let frame = b.frame;
        drop(a);
        race.run(&mut [&mut b], 13);
        let got = race.got();
        let frames: Vec<Got> = got.into_iter().filter(|got| !is_header(got)).collect();
        let want: Vec<Got> = (0..frame + 13).flat_map(|n| b.at(n)).collect();
        assert_eq!(frames, want, "{behind} behind");
        assert_eq!(race.hub.switches(), 1);
    }
}

#[test]
fn the_same_stream_is_recognised_by_what_it_brings_from_before_it_came() {
    let mut race = Race::new();
    let mut a = race.enter(b'a', 500, RULES);
    a.gop = 40;
    race.run(&mut [&mut a], 20);
    // As a forward of another master: the whole group of pictures at once.
    let mut b = race.enter(b'a', 500, RULES);
    b.gop = 40;
    (0..20).for_each(|_| b.next(race.now));
    drop(a);
    race.run(&mut [&mut b], 3);
    let frames: Vec<Got> = race.got().into_iter().filter(|got| !is_header(got)).collect();
    assert_eq!(frames, (0..23).flat_map(|n| b.at(n)).collect::<Vec<_>>());
}

#[test]
fn headers_that_are_the_same_are_not_sent_again_and_those_that_are_gone_are_forgotten() {
    let mut race = Race::new();
    let mut a = race.enter(b'a', 0, RULES);
    let mut b =
        Encoder { publisher: race.try_enter(b'b', RULES).unwrap(), ..same_but(b'a', &race) };
    b.put(MediaKind::Video, 0, &[0x17, 0, 0, 0, 0, b'a'], race.now);
    race.run(&mut [&mut a, &mut b], 3);
    let (before, epoch) = (race.got().len(), race.view.epoch_at(race.view.head()).unwrap());
    drop(a);
    race.run(&mut [&mut b], 1);
    let got = race.got();
    assert!(got[before..].iter().all(|got| !is_header(got)), "{:?}", &got[before..]);
    let headers = race.hub.find(&key()).unwrap().headers();
    assert!(headers.metadata().is_none() && headers.has_video(), "b has said none");
    assert_ne!(race.view.epoch_at(race.view.head()), Some(epoch));
}

/// An encoder of another stream, for its fields.
fn same_but(name: u8, race: &Race) -> Encoder {
    let other = StreamKey::new("__defaultVhost__", "live", "other").unwrap();
    let publisher = race.hub.publish(&other, options(), Source::default(), race.now).unwrap();
    Encoder { publisher, name: name + 1, zero: 9_000, gop: 5, frame: 0 }
}

#[test]
fn who_takes_over_does_so_at_its_keyframe_and_the_first_is_told() {
    let rules = Rules { second: Second::TakeOver, ..RULES };
    let mut race = Race::new();
    let mut a = race.enter(b'a', 0, rules);
    race.run(&mut [&mut a], 7);
    let mut b = race.enter(b'b', 9000, rules);
    b.frame = 2;
    race.run(&mut [&mut a, &mut b], 3);
    assert_eq!(race.publisher(), "a", "no keyframe of b came");
    let before = race.got().len();
    race.run(&mut [&mut b, &mut a], 1);
    assert_eq!(race.publisher(), "b");
    let got = race.got();
    assert!(got[before].2.ends_with(b"b") && got[before + 1].2[0] == 0x17, "{:?}", &got[before..]);
    let mut ousted = Box::pin(a.publisher.ousted());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(ousted.as_mut().poll(&mut context).is_ready());
    drop(ousted);
    race.run(&mut [&mut a, &mut b], 5);
    drop(a);
    race.run(&mut [&mut b], 5);
    let got = race.got();
    assert!(got[before..].iter().all(|got| is_header(got) || got.2.contains(&b'b')));
    assert_monotonic(&got);
    assert_eq!(race.view.phase(), Phase::Live);
}

#[test]
fn refused_is_a_second_one_unless_the_first_says_nothing_any_more() {
    let refuse = Rules { second: Second::Refuse, ..RULES };
    let mut race = Race::new();
    let mut a = race.enter(b'a', 0, refuse);
    race.run(&mut [&mut a], 3);
    race.now += Duration::from_millis(2900);
    assert_eq!(race.try_enter(b'b', refuse).unwrap_err(), Busy);
    race.now += Duration::from_millis(100);
    assert!(race.hub.publish(&key(), options(), Source::default(), race.now).is_err());
    let mut b = race.enter(b'b', 0, refuse);
    race.run(&mut [&mut b], 1);
    a.next(race.now);
    assert_eq!(race.got().last(), Some(&b.at(0)[1]), "as it says, and nothing of a");
    drop(a);
    assert_eq!((race.publisher(), race.view.phase()), ("b".to_owned(), Phase::Live));
}

#[test]
fn so_many_may_stand_by_and_what_is_kept_of_them_is_bounded() {
    let mut race = Race::new();
    let _a = race.enter(b'a', 0, RULES);
    let mut b = race.enter(b'b', 0, RULES);
    assert_eq!(race.try_enter(b'c', RULES).unwrap_err(), Busy);
    let held = |race: &Race| race.hub.find(&key()).unwrap().standbys(race.now).remove(0);
    for n in 0..40 {
        let first = if n == 0 { 0x17 } else { 0x27 };
        b.put(MediaKind::Video, n, &video(first, n, 200_000), race.now);
        assert!(held(&race).held_bytes <= (4 << 20) + 200_005);
    }
    assert_eq!((held(&race).held_bytes, held(&race).ready), (0, false), "over the bound");
    // nothing came from it for long: it is in nobody's way
    race.now += Duration::from_secs(4);
    drop(race.try_enter(b'c', RULES).unwrap());
    let wide = Rules { standbys: 3, ..RULES };
    let _more = [b'd', b'e', b'f'].map(|name| race.try_enter(name, wide).unwrap());
    assert_eq!(race.try_enter(b'g', wide).unwrap_err(), Busy);
}

#[test]
fn who_is_not_ready_goes_on_when_it_is_and_the_stream_waits_for_it() {
    let mut race = Race::new();
    let mut a = race.enter(b'a', 0, RULES);
    race.run(&mut [&mut a], 6);
    let mut b = race.enter(b'b', 50_000, RULES);
    b.frame = 1;
    race.run(&mut [&mut b], 1);
    drop(a);
    race.hub.sweep(race.now + Duration::from_secs(60));
    assert!(matches!(race.hub.find(&key()).unwrap().phase(), Phase::Grace(_)));
    let before = race.got().len();
    race.run(&mut [&mut b], 5);
    let got = race.got();
    assert_eq!(race.view.phase(), Phase::Live);
    assert!(got[before..before + 3].iter().all(is_header), "whoever came meanwhile needs them");
    assert_eq!(got[before + 3].2[0], 0x17);
    assert_monotonic(&got);
    drop(b);
    race.hub.sweep(Instant::now() + Duration::from_secs(60));
    assert!(race.hub.find(&key()).is_none());
}

#[test]
fn both_end_and_one_comes_back_with_times_that_go_on() {
    let mut race = Race::new();
    let mut a = race.enter(b'a', 0, RULES);
    let mut b = race.enter(b'b', 0, RULES);
    race.run(&mut [&mut a, &mut b], 40);
    drop(b);
    drop(a);
    let before = race.got();
    let mut a = race.enter(b'a', 0, RULES);
    race.run(&mut [&mut a], 10);
    let got = race.got();
    assert_monotonic(&got);
    assert_eq!(got.len(), before.len() + 3 + 20);
    assert_eq!(race.hub.switches(), 0, "nobody was there to switch to");
}

#[test]
fn audio_alone_has_no_keyframe_to_wait_for() {
    let mut race = Race::new();
    let enter = |race: &Race, name| race.try_enter(name, RULES).unwrap();
    let (mut a, mut b) = (enter(&race, b'a'), enter(&race, b'b'));
    let put = |publisher: &mut Publisher, timestamp, name, now| {
        let payload = &[0x2f, 1, name];
        let timestamp = Timestamp(timestamp);
        let media = MediaMessage { kind: MediaKind::Audio, timestamp, msid: 1, payload };
        publisher.append(&media, now).unwrap();
    };
    for n in 0..10 {
        put(&mut a, n * 20, b'a', race.now);
        put(&mut b, 5000 + n * 20, b'b', race.now);
    }
    drop(a);
    put(&mut b, 5200, b'b', race.now);
    let got = race.got();
    assert_eq!(got[10..], [(8, 220, vec![0x2f, 1, b'b']), (8, 240, vec![0x2f, 1, b'b'])]);
}

#[derive(Clone, Debug)]
enum Step {
    Run(u8),
    Enter(usize, u32),
    Leave(usize),
    Quiet(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..12_u8).prop_map(Step::Run),
        2 => (0..3_usize, any::<u32>()).prop_map(|(who, zero)| Step::Enter(who, zero)),
        1 => (0..3_usize).prop_map(Step::Leave),
        1 => (0..3_usize).prop_map(Step::Quiet),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whoever comes, goes and falls silent: each stretch of one publisher begins with a keyframe
    /// behind its own header, its frames follow each other, and times never go back.
    #[test]
    fn every_stretch_is_one_publishers_from_a_keyframe_on(
        steps in proptest::collection::vec(step(), 1..60), takes_over: bool,
    ) {
        let second = if takes_over { Second::TakeOver } else { Second::StandBy };
        let rules = Rules { second, standbys: 2, ..RULES };
        let mut race = Race::new();
        let mut encoders: [Option<(Encoder, bool)>; 3] = [None, None, None];
        for step in steps {
            match step {
                Step::Run(frames) => for _ in 0..frames {
                    let speaking = encoders.iter_mut().flatten().filter(|(_, quiet)| !quiet);
                    let mut speaking: Vec<_> = speaking.map(|(encoder, _)| encoder).collect();
                    race.run(&mut speaking, 1);
                },
                Step::Enter(who, zero) if encoders[who].is_none() => {
                    let name = b'a' + u8::try_from(who).unwrap();
                    encoders[who] = Some((race.enter(name, zero, rules), false));
                }
                Step::Leave(who) => encoders[who] = None,
                Step::Quiet(who) => {
                    if let Some((_, quiet)) = &mut encoders[who] {
                        *quiet = !*quiet;
                    }
                }
                Step::Enter(..) => {}
            }
        }
        let got = race.got();
        assert_monotonic(&got);
        let (mut header, mut last): (u8, Option<(u8, u16)>) = (0, None);
        for got in got.iter().filter(|got| got.0 == 9) {
            if is_header(got) {
                header = got.2[5];
                continue;
            }
            let (name, n) = (got.2[5], u16::from_be_bytes([got.2[6], got.2[7]]));
            prop_assert_eq!(name, header);
            let follows = last.is_some_and(|(who, before)| who == name && n == before + 1);
            prop_assert!(follows || got.2[0] == 0x17, "{:?} after {:?}", got, last);
            last = Some((name, n));
        }
        prop_assert!(race.elapsed() < 60_000);
    }
}
