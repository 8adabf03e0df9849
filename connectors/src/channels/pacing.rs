//! Pacing: no call to a provider starts faster than our share of its limit, while it told us to wait, or while it refuses our account or
//! fails too often (a circuit breaker). Which message goes next is the caller's choice, and what becomes of a failed one too; what an answer
//! changed is told to the caller as a [`Change`], for the other instances.

use super::{Accepted, Message, SendError, Sink};
use bellwether_schemas::{Channel, records::ErrorKind};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use std::{
    fmt,
    num::NonZeroU32,
    ops::Add,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Mutex as Turn, Notify},
    time::{Instant, sleep_until},
};

/// Bursts cover this much time: tokio's timer has steps of a millisecond, so a limit of many thousands a second needs a little slack.
const BURST: f64 = 0.02;
/// So much of a limit is used at a steady pace, so that with a burst any one second still keeps it: calls do not arrive as evenly as they leave.
const HEADROOM: f64 = 1.0 - BURST;
/// First and longest hold when a provider throttles us without saying for how long.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// No provider may hold us for longer than this at a time.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);
/// First and longest cool-off when a provider refuses our account.
const REFUSED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15 * 60));
/// First and longest cool-off when a provider fails too often.
const FAILING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// It fails too often when so many calls failed lately, and at least as many as did not.
const MIN_FAILURES: f64 = 10.0;
/// What "lately" means: after this time a call counts half.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// For so long the one whom a stopped provider was offered to may take to call it.
const OFFER: Duration = Duration::from_secs(10);

/// A provider, its pace, and whether it may be called now. One for all that call it; everything by `&self`.
#[derive(Debug)]
pub struct Paced {
    sink: Arc<dyn Sink>,
    pace: Arc<Pace>,
    rate_per_second: Option<u32>,
}

/// The right to make one call. Dropped unused, its place in the rate is lost and nothing else.
#[derive(Debug)]
#[must_use = "a permit is a place in the provider's rate: send by it"]
pub struct Permit {
    sink: Arc<dyn Sink>,
    pace: Arc<Pace>,
    /// The one try after a cool-off, which decides how it goes on.
    probe: bool,
}

/// What an answer changed about a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It told us to wait until then.
    Held(Instant),
    /// It refuses our account or fails too often: not before then, and then by one call.
    Stopped(Instant),
    /// It may be called again.
    Recovered,
}

/// A provider's pacing, for metrics and the operator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// The provider throttles us until then.
    pub held_until: Option<Instant>,
    /// The provider refuses our account or fails too often; the next try is not before then, and it is one call.
    pub stopped_until: Option<Instant>,
    /// Calls per second that this instance may start; `None` without a limit.
    pub per_second: Option<f64>,
}

impl Paced {
    /// A limit of `rate_per_second` for the whole cluster, all of it ours until [`Paced::set_share`] says otherwise; `None` is no limit.
    #[must_use]
    pub fn new(sink: Arc<dyn Sink>, rate_per_second: Option<u32>) -> Self {
        let this = Self { sink, pace: Arc::default(), rate_per_second };
        this.set_share(1.0);
        this
    }

    /// The provider's channel.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.sink.channel()
    }

    /// The provider itself, for calls that are no messages.
    #[must_use]
    pub fn sink(&self) -> &Arc<dyn Sink> {
        &self.sink
    }

    /// Takes this share, 0 to 1, of the limit: the share of the partitions that this instance holds. With 0 of a limit nothing starts.
    pub fn set_share(&self, share: f64) {
        let Some(rate) = self.rate_per_second else { return };
        let rate = f64::from(rate) * HEADROOM * if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        let mut gate = self.pace.gate();
        if gate.per_second == Some(rate) {
            return;
        }
        gate.per_second = Some(rate);
        gate.limiter = limiter(rate);
        drop(gate);
        self.pace.changed.notify_waiters();
    }

    /// Waits for the right to make one call; whoever came first gets it first. Cancel-safe: a call that is dropped has taken nothing.
    pub async fn acquire(&self) -> Permit {
        let _turn = self.pace.turn.lock().await;
        loop {
            // Listening before looking, so that a change in between is not missed.
            let changed = self.pace.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.pace.try_take(Instant::now()) {
                Ok(probe) => return self.permit(probe),
                Err(Some(until)) => tokio::select! {
                    () = sleep_until(until) => {}
                    () = changed => {}
                },
                Err(None) => changed.await,
            }
        }
    }

    /// The right to make one call, if it is to be had at once and nobody waits for it.
    pub fn try_acquire(&self) -> Option<Permit> {
        let _turn = self.pace.turn.try_lock().ok()?;
        self.pace.try_take(Instant::now()).ok().map(|probe| self.permit(probe))
    }

    /// The right to make one call now, whatever rate and stop say: for a test that an operator asked for. `None` while the provider told us to wait.
    pub fn insist(&self) -> Option<Permit> {
        let mut gate = self.pace.gate();
        if gate.held_until.is_some_and(|until| until > Instant::now()) {
            return None;
        }
        let probe = gate.stop.as_mut().is_some_and(|stop| !std::mem::replace(&mut stop.probing, true));
        drop(gate);
        Some(self.permit(probe))
    }

    /// Whether to give a message to this provider rather than to another one. While it is stopped, no; when its cool-off is over, one is told
    /// yes, whose message tries it, and the others wait for what becomes of that.
    #[must_use]
    pub fn takes(&self) -> bool {
        self.pace.gate().takes(Instant::now())
    }

    /// Takes over what another instance found.
    pub fn adopt(&self, change: Change) {
        let mut gate = self.pace.gate();
        match change {
            Change::Held(until) => gate.held_until = Some(gate.held_until.map_or(until, |held| held.max(until))),
            Change::Stopped(until) if gate.stop.is_none_or(|stop| stop.until < until) => {
                gate.stop = Some(Stop { until, ..gate.stop.unwrap_or(Stop::new(until, REFUSED)) });
            }
            Change::Stopped(_) => {}
            Change::Recovered => gate.recover(),
        }
        drop(gate);
        self.pace.changed.notify_waiters();
    }

    fn permit(&self, probe: bool) -> Permit {
        Permit { sink: Arc::clone(&self.sink), pace: Arc::clone(&self.pace), probe }
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        let (gate, now) = (self.pace.gate(), Instant::now());
        State {
            held_until: gate.held_until.filter(|until| *until > now),
            stopped_until: gate.stop.map(|stop| stop.until),
            per_second: gate.per_second,
        }
    }
}

impl Permit {
    /// Calls the provider, and lets its answer set the pace: the answer, and what it changed. For errors see [`Sink::send`].
    pub async fn send(mut self, message: &Message) -> (Result<Accepted, SendError>, Option<Change>) {
        let outcome = self.sink.send(message).await;
        let change = self.pace.observe(&outcome, self.probe, Instant::now());
        self.probe = false;
        (outcome, change)
    }
}

/// A probe that was never sent lets another one go.
impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe {
            self.pace.release_probe();
        }
    }
}

#[derive(Debug, Default)]
struct Pace {
    gate: Mutex<Gate>,
    /// One waits for the rate at a time, the others for their turn.
    turn: Turn<()>,
    changed: Notify,
}

#[derive(Default)]
struct Gate {
    limiter: Limit,
    per_second: Option<f64>,
    held_until: Option<Instant>,
    /// The next hold without a time of the provider's.
    hold: Option<Duration>,
    stop: Option<Stop>,
    recent: Recent,
}

#[derive(Clone, Copy, Debug)]
struct Stop {
    until: Instant,
    cool_off: Duration,
    longest: Duration,
    /// A call is on its way that decides how it goes on.
    probing: bool,
    /// When somebody was last told to try it.
    offered: Option<Instant>,
}

impl Stop {
    const fn new(until: Instant, (cool_off, longest): (Duration, Duration)) -> Self {
        Self { until, cool_off, longest, probing: false, offered: None }
    }
}

/// Calls that failed for reasons of the provider's, and all others; each counts half after [`HALF_LIFE`].
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    failed: f64,
    others: f64,
    counted: Option<Instant>,
}

impl Recent {
    /// Counts a call, and says whether the provider fails too often.
    fn count(&mut self, failed: bool, now: Instant) -> bool {
        let age = self.counted.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let faded = 0.5_f64.powf(age.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.failed = self.failed * faded + f64::from(u8::from(failed));
        self.others = self.others * faded + f64::from(u8::from(!failed));
        self.counted = Some(now);
        // The sum of halves may miss the count by what has faded since the first of them.
        self.failed > MIN_FAILURES - 1.0 && self.failed >= self.others
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("per_second", &self.per_second)
            .field("held_until", &self.held_until)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

impl Pace {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, and says whether it is a probe; else when to ask again, `None` meaning after a change.
    fn try_take(&self, now: Instant) -> Result<bool, Option<Instant>> {
        let mut gate = self.gate();
        if let Some(until) = gate.held_until.filter(|until| *until > now) {
            return Err(Some(until));
        }
        match gate.stop {
            Some(stop) if stop.until > now => return Err(Some(stop.until)),
            Some(stop) if stop.probing => return Err(None),
            _ => {}
        }
        match &gate.limiter {
            Limit::None => {}
            Limit::Nothing => return Err(None),
            Limit::Rate(limiter) => {
                if let Err(not_until) = limiter.check() {
                    return Err(Some(now + not_until.wait_time_from(Moment(now))));
                }
            }
        }
        Ok(match &mut gate.stop {
            Some(stop) => {
                stop.probing = true;
                true
            }
            None => false,
        })
    }

    /// Learns from the answer to a call, and says what it changed.
    fn observe(&self, outcome: &Result<Accepted, SendError>, probe: bool, now: Instant) -> Option<Change> {
        let mut gate = self.gate();
        let change = match outcome {
            Err(error) if error.of_address => gate.answered(now),
            Err(error) if error.kind == ErrorKind::Throttled => gate.throttled(error.after, now),
            Err(error) if error.kind == ErrorKind::Unauthorized => gate.stop(REFUSED, now),
            // It did not get as far as our account.
            Err(error) if matches!(error.kind, ErrorKind::Transient | ErrorKind::Ambiguous) => gate.failed(probe, now),
            // Whatever the answer says about the message, the account and its pace are fine.
            _ => {
                gate.hold = None;
                gate.answered(now)
            }
        };
        drop(gate);
        self.changed.notify_waiters();
        change
    }

    fn release_probe(&self) {
        if let Some(stop) = &mut self.gate().stop {
            (stop.probing, stop.offered) = (false, None);
        }
        self.changed.notify_waiters();
    }
}

impl Gate {
    fn takes(&mut self, now: Instant) -> bool {
        let Some(stop) = &mut self.stop else { return true };
        let is_offered = stop.offered.is_some_and(|at| now < at + OFFER);
        let takes = stop.until <= now && !stop.probing && !is_offered;
        if takes {
            stop.offered = Some(now);
        }
        takes
    }

    fn recover(&mut self) {
        (self.stop, self.recent) = (None, Recent::default());
    }

    /// The provider has done with a message what providers do.
    fn answered(&mut self, now: Instant) -> Option<Change> {
        self.recent.count(false, now);
        self.stop.is_some().then(|| {
            self.recover();
            Change::Recovered
        })
    }

    fn throttled(&mut self, after: Option<Duration>, now: Instant) -> Option<Change> {
        // The account itself is fine.
        let recovered = self.answered(now);
        let is_held = self.held_until.is_some_and(|until| until > now);
        let wait = after.unwrap_or_else(|| {
            let next = self.hold.unwrap_or(HOLD.0);
            // The calls that were in flight together fail together: that is one throttling.
            if !is_held {
                self.hold = Some((next * 2).min(HOLD.1));
            }
            next
        });
        let until = now + wait.min(LONGEST_HOLD);
        if is_held && (after.is_none() || self.held_until >= Some(until)) {
            return recovered;
        }
        self.held_until = Some(until);
        Some(Change::Held(until))
    }

    /// No more calls for a while; longer every time that a try shows no better.
    fn stop(&mut self, cool_off: (Duration, Duration), now: Instant) -> Option<Change> {
        let stop = match self.stop {
            // The calls that were in flight together fail together: that is one failure.
            Some(stop) if stop.until > now => return None,
            Some(stop) => {
                let longer = (stop.cool_off * 2).max(cool_off.0).min(stop.longest.max(cool_off.1));
                Stop::new(now + longer, (longer, stop.longest.max(cool_off.1)))
            }
            None => Stop::new(now + cool_off.0, cool_off),
        };
        self.stop = Some(stop);
        Some(Change::Stopped(stop.until))
    }

    fn failed(&mut self, probe: bool, now: Instant) -> Option<Change> {
        if self.recent.count(true, now) || probe {
            // What is known of it is known by the stop from now on.
            self.recent = Recent::default();
            return self.stop(FAILING, now);
        }
        None
    }
}

#[derive(Default)]
enum Limit {
    #[default]
    None,
    Nothing,
    Rate(RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Moment>>),
}

fn limiter(per_second: f64) -> Limit {
    let period = Duration::try_from_secs_f64(1.0 / per_second).ok().map(|p| p.max(Duration::from_nanos(1)));
    let Some(quota) = period.and_then(Quota::with_period) else { return Limit::Nothing };
    let burst = NonZeroU32::new((per_second * BURST).ceil() as u32).unwrap_or(NonZeroU32::MIN);
    Limit::Rate(RateLimiter::direct_with_clock(quota.allow_burst(burst), TokioClock))
}

/// Tokio's clock, so that a test can hold it.
#[derive(Clone, Debug)]
struct TokioClock;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Instant);

impl Clock for TokioClock {
    type Instant = Moment;
    fn now(&self) -> Moment {
        Moment(Instant::now())
    }
}

impl Add<Nanos> for Moment {
    type Output = Self;
    fn add(self, other: Nanos) -> Self {
        Self(self.0 + Duration::from(other))
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_duration_since(earlier.0).into()
    }
    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.checked_sub(duration.into()).unwrap_or(self.0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::channels::{Content, test_support};
    use async_trait::async_trait;
    use futures::FutureExt as _;
    use std::collections::VecDeque;

    /// Answers what it is told to, then yes.
    #[derive(Debug, Default)]
    struct Scripted(Mutex<VecDeque<SendError>>);

    #[async_trait]
    impl Sink for Scripted {
        fn channel(&self) -> Channel {
            Channel::Sms
        }
        async fn send(&self, _: &Message) -> Result<Accepted, SendError> {
            self.0.lock().unwrap().pop_front().map_or(Ok(Accepted::default()), Err)
        }
        async fn check(&self) -> Result<(), SendError> {
            Ok(())
        }
    }

    fn paced(rate: Option<u32>, errors: impl IntoIterator<Item = SendError>) -> Paced {
        Paced::new(Arc::new(Scripted(Mutex::new(errors.into_iter().collect()))), rate)
    }

    fn message() -> Message {
        test_support::message("", Content::Text { body: String::new() })
    }

    fn throttled(after: Option<u64>) -> SendError {
        SendError { after: after.map(Duration::from_secs), ..SendError::new(ErrorKind::Throttled, "") }
    }

    fn unauthorized() -> SendError {
        SendError::new(ErrorKind::Unauthorized, "")
    }

    /// Seconds until `calls` calls have started, each answered at once.
    async fn seconds_for(paced: &Paced, calls: usize) -> f64 {
        let start = Instant::now();
        for _ in 0..calls {
            paced.acquire().await.send(&message()).await.0.ok();
        }
        start.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_and_used() {
        for rate in [5, 100, 2_000] {
            let seconds = seconds_for(&paced(Some(rate), []), 4 * rate as usize).await;
            assert!((3.8..4.5).contains(&seconds), "{rate}/s: {seconds}");
        }
        assert_eq!(seconds_for(&paced(None, []), 10_000).await, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_a_share() {
        let paced = paced(Some(100), []);
        paced.set_share(0.25);
        assert_eq!(paced.state().per_second, Some(25.0 * HEADROOM));
        assert!((3.8..4.2).contains(&seconds_for(&paced, 100).await));
        paced.set_share(0.0);
        let mut waiting = Box::pin(paced.acquire());
        assert!(tokio::time::timeout(Duration::from_secs(3600), &mut waiting).await.is_err());
        paced.set_share(1.0);
        let permit = tokio::time::timeout(Duration::from_secs(1), waiting).await.expect("the share came back");
        drop(permit);
        paced.set_share(f64::NAN);
        assert!(paced.try_acquire().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_provider_is_left_alone_as_long_as_it_says() {
        let paced = paced(None, [throttled(Some(7))]);
        let start = Instant::now();
        paced.acquire().await.send(&message()).await.0.unwrap_err();
        assert_eq!(paced.state().held_until, Some(start + Duration::from_secs(7)));
        assert!(paced.try_acquire().is_none());
        drop(paced.acquire().await);
        assert_eq!(start.elapsed().as_secs(), 7);
        assert_eq!(paced.state().held_until, None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_that_must_wait_holds_nobody_else() {
        let paced = paced(None, [SendError { of_address: true, ..throttled(Some(86_400)) }]);
        paced.acquire().await.send(&message()).await.0.unwrap_err();
        assert_eq!(paced.state().held_until, None);
        assert!(paced.try_acquire().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_the_hold_grows_and_success_resets_it() {
        let paced = paced(None, (0..3).map(|_| throttled(None)));
        // 1 + 2 + 4 seconds between four calls.
        assert_eq!(seconds_for(&paced, 4).await.round(), 7.0);
        paced.pace.observe(&Err(throttled(None)), false, Instant::now());
        assert_eq!(seconds_for(&paced, 1).await.round(), 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_are_throttled_together_hold_once() {
        let paced = paced(None, (0..10).map(|_| throttled(None)));
        let mut permits = Vec::new();
        for _ in 0..10 {
            permits.push(paced.acquire().await);
        }
        for permit in permits {
            permit.send(&message()).await.0.unwrap_err();
        }
        assert_eq!(seconds_for(&paced, 1).await.round(), 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_account_stops_and_is_tried_by_one_call_at_a_time() {
        let paced = paced(None, [unauthorized(), unauthorized()]);
        let start = Instant::now();
        paced.acquire().await.send(&message()).await.0.unwrap_err();
        assert_eq!(paced.state().stopped_until, Some(start + REFUSED.0));

        let probe = paced.acquire().await;
        assert_eq!(start.elapsed(), REFUSED.0);
        assert!(paced.try_acquire().is_none(), "one probe at a time");
        probe.send(&message()).await.0.unwrap_err();
        assert_eq!(paced.state().stopped_until, Some(Instant::now() + REFUSED.0 * 2), "the cool-off grows");

        let unused = paced.acquire().await;
        drop(unused);
        let probe = paced.try_acquire().expect("an unused probe lets another go");
        probe.send(&message()).await.0.unwrap();
        assert_eq!(paced.state().stopped_until, None);
        assert!(paced.try_acquire().is_some() && paced.try_acquire().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_does_not_get_through_proves_nothing() {
        let paced = paced(None, [unauthorized(), SendError::new(ErrorKind::Transient, "")]);
        paced.acquire().await.send(&message()).await.0.unwrap_err();
        paced.acquire().await.send(&message()).await.0.unwrap_err();
        assert!(paced.state().stopped_until.is_some());
        assert!(paced.try_acquire().is_none());
    }

    fn transient() -> SendError {
        SendError::new(ErrorKind::Transient, "")
    }

    async fn call(paced: &Paced) -> Option<Change> {
        paced.acquire().await.send(&message()).await.1
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_fails_too_often_is_stopped_and_tried_again_by_one_call() {
        let failures = MIN_FAILURES as usize;
        let paced = paced(None, (0..=failures).map(|_| transient()));
        for _ in 1..failures {
            assert_eq!(call(&paced).await, None);
        }
        let start = Instant::now();
        assert_eq!(call(&paced).await, Some(Change::Stopped(start + FAILING.0)));
        assert!(!paced.takes(), "others are to take its messages");

        // The first try shows no better, so the second comes later.
        assert_eq!(call(&paced).await, Some(Change::Stopped(start + FAILING.0 + FAILING.0 * 2)));
        assert_eq!(call(&paced).await, Some(Change::Recovered));
        assert_eq!(start.elapsed(), FAILING.0 * 3);
        assert_eq!(paced.state().stopped_until, None);
        assert!(paced.takes() && paced.takes());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_among_enough_good_calls_or_of_long_ago_stop_nobody() {
        let mixed = paced(None, []);
        for n in 0..200 {
            let answer = if n % 5 < 2 { Err(transient()) } else { Ok(Accepted::default()) };
            assert_eq!(mixed.pace.observe(&answer, false, Instant::now()), None, "call {n}");
        }
        let slow = paced(None, []);
        for n in 0..200 {
            tokio::time::advance(HALF_LIFE).await;
            assert_eq!(slow.pace.observe(&Err(transient()), false, Instant::now()), None, "call {n}");
        }
        let put_off = paced(None, []);
        let greylisted = SendError { of_address: true, ..transient() };
        for _ in 0..200 {
            assert_eq!(put_off.pace.observe(&Err(greylisted.clone()), false, Instant::now()), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stopped_is_offered_to_one_at_a_time() {
        let paced = paced(None, [unauthorized()]);
        assert!(paced.takes());
        call(&paced).await;
        assert!(!paced.takes());
        tokio::time::advance(REFUSED.0).await;
        assert!(paced.takes(), "one tries it");
        assert!(!paced.takes(), "and the others wait for what becomes of that");
        tokio::time::advance(OFFER).await;
        assert!(paced.takes(), "whoever was offered it is gone: another may");
        let probe = paced.try_acquire().unwrap();
        tokio::time::advance(OFFER).await;
        assert!(!paced.takes(), "the try is on its way");
        assert_eq!(probe.send(&message()).await.1, Some(Change::Recovered));
        assert!(paced.takes());
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_instance_found_holds_here_too() {
        let paced = paced(None, []);
        let now = Instant::now();
        let seconds = Duration::from_secs;
        paced.adopt(Change::Held(now + seconds(5)));
        paced.adopt(Change::Held(now + seconds(3)));
        assert_eq!(paced.state().held_until, Some(now + seconds(5)), "the longer wait holds");
        assert!(paced.try_acquire().is_none());
        paced.adopt(Change::Stopped(now + seconds(9)));
        drop(paced.acquire().await);
        assert_eq!(now.elapsed(), seconds(9));
        paced.adopt(Change::Recovered);
        assert_eq!(paced.state().stopped_until, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_operators_test_passes_a_stop_and_ends_it_but_no_wait() {
        let paced = paced(Some(1), [unauthorized()]);
        call(&paced).await;
        let permit = paced.insist().expect("the operator wants to know");
        assert_eq!(permit.send(&message()).await.1, Some(Change::Recovered));
        paced.pace.observe(&Err(throttled(Some(5))), false, Instant::now());
        assert!(paced.insist().is_none(), "the provider told us to wait");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_takes_nothing() {
        let paced = paced(Some(1), []);
        drop(paced.acquire().await);
        let start = Instant::now();
        for _ in 0..5 {
            assert!(paced.acquire().now_or_never().is_none());
        }
        drop(paced.acquire().await);
        assert_eq!(start.elapsed().as_secs_f64().round(), 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_comes_while_waiting_is_respected() {
        let paced = Arc::new(paced(Some(1), []));
        drop(paced.acquire().await);
        let start = Instant::now();
        let waiter = tokio::spawn({
            let paced = Arc::clone(&paced);
            async move { drop(paced.acquire().await) }
        });
        tokio::task::yield_now().await;
        paced.pace.observe(&Err(throttled(Some(9))), false, Instant::now());
        waiter.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 9);
    }
}
