//! Telling people: what the sweep found becomes messages, a few, and each is handed to who hears it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::warn;

use super::app::App;
use crate::domain::channel::{Channel, ChannelState};
use crate::domain::concern::{Concern, Told};
use crate::domain::failure::StoreError;
use crate::domain::fleet::{BOARDS, BoardCounts, Fleet, NAMED};
use crate::domain::hearing::{DeafNews, Hearing};
use crate::domain::ids::BoardId;
use crate::domain::message::{Around, Content, Details, Member, Message, group};
use crate::domain::pace::Pace;
use crate::domain::silence::Silence;
use crate::domain::watch::{Cause, Change};
use crate::store::{Control, Gone, Mark, Sighting, Sweep, Telling};
use crate::time::Timestamp;

/// An agent that falls silent so often within an hour flaps.
const FLAPS_AFTER: usize = 4;
const FLAPPING_WITHIN: Duration = Duration::from_hours(1);

/// How much later a channel may be stored than it says that it began to hear: a request's time, and clocks that differ.
const LATE: Duration = Duration::from_mins(1);

/// Of how many agents at once it is asked whether they flap: a fleet that falls silent together does not.
const ASKED_AT_ONCE: usize = 10;

/// How often it is asked whether an agent still flaps, in minutes.
const ASKED_EVERY: i64 = 10;

/// What there is to be told of one agent.
#[derive(Clone, Debug)]
struct News {
    member: Member,
    details: Details,
    mark: Mark,
    /// A silence ended: its message says how long it was.
    ends_silence: bool,
}

impl News {
    fn of(sighting: &Sighting, now: Timestamp) -> Self {
        let Sighting { watched, change } = sighting;
        Self {
            member: Member::of(watched, change),
            details: Details::of(watched, now),
            mark: Mark::Row {
                agent_id: watched.agent_id,
                was: watched.told,
                offline_since: watched.offline_since,
                becomes: change.told,
            },
            ends_silence: change
                .ends
                .is_some_and(|(concern, cause)| cause == Cause::Resumed && concern.is_silence()),
        }
    }

    /// `None`: nothing was told that a message could end.
    fn of_gone(gone: &Gone) -> Option<Self> {
        let member = Member {
            id: gone.agent_id,
            name: gone.agent_name.as_str().to_owned(),
            board_id: gone.board_id,
            began: None,
            ended: gone.alerted.worst().filter(|concern| *concern != Concern::Waiting),
            cause: Some(Cause::Deleted),
            last_seen_at: None,
        };
        let (details, mark) = (Details::default(), Mark::Gone(gone.agent_id));
        member.ended.is_some().then_some(Self { member, details, mark, ends_silence: false })
    }
}

/// One sweep's telling.
pub struct Teller<'a> {
    app: &'a App,
    control: Control,
    channels: Vec<Channel>,
    silences: Vec<Silence>,
    now: Timestamp,
    stop_at: Instant,
    /// The last message before this sweep.
    seq_before: u64,
    /// The agents of which this sweep told that something began.
    raised: u64,
    overtaken: bool,
}

impl<'a> Teller<'a> {
    /// Reads what the last sweep left, the channels and the silences; and hands out what was told and not handed out.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn begin(app: &'a App, now: Timestamp, stop_at: Instant) -> Result<Self, StoreError> {
        let mut control = app.store.control().await?;
        let channels = app.store.channels().await?;
        let silences = app.store.silences(now).await?;
        app.store.fan_out(&mut control, &channels, now).await?;
        let seq_before = control.seq;
        Ok(Self { app, control, channels, silences, now, stop_at, seq_before, raised: 0, overtaken: false })
    }

    /// What the last sweep left.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Whether any channel wants to know who waits to be let in.
    #[must_use]
    pub fn tells_of_waiting(&self) -> bool {
        self.channels.iter().any(|channel| channel.is_enabled() && channel.hears(Concern::Waiting))
    }

    /// Tells what the sweep found, hands it out, and keeps what the next sweep needs. Says of how many agents it told that
    /// something began.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses: what is untold or not handed out comes with the next sweep.
    pub async fn tell(mut self, sweep: &Sweep, read: &Hearing, hearing: Hearing) -> Result<u64, StoreError> {
        let store = &self.app.store;
        self.control.hearing = hearing;
        if sweep.heard && Instant::now() < self.stop_at {
            self.tell_of_agents(sweep).await?;
        }
        if sweep.report.complete {
            self.tell_of_ourselves().await?;
        }
        self.tell_of_channels().await?;
        if sweep.report.complete && sweep.heard {
            store.put_fleet(&self.summary(sweep)).await?;
        }
        self.catch_up(read).await?;
        store.keep_hearing(read, &self.control.hearing, &sweep.cursors).await?;
        store.fan_out(&mut self.control, &self.channels, self.now).await?;
        Ok(self.raised)
    }

    /// Of the messages that the sweeps before handed out, those that a new channel was there too late for.
    async fn catch_up(&self, read: &Hearing) -> Result<(), StoreError> {
        let Some(last_sweep) = read.heard_at else { return Ok(()) };
        let since = last_sweep.minus(LATE);
        for channel in self.channels.iter().filter(|channel| channel.hears_since >= since) {
            self.app.store.catch_up(&self.control, channel, self.now).await?;
        }
        Ok(())
    }

    async fn tell_of_agents(&mut self, sweep: &Sweep) -> Result<(), StoreError> {
        let (mut sightings, silent): (Vec<Sighting>, Vec<_>) = self.audible(sweep);
        sightings.extend(self.stable(sweep).await?);
        self.find_flapping(&mut sightings).await?;
        let (news, marks): (Vec<_>, Vec<_>) =
            sightings.iter().partition(|sighting| sighting.change.is_news());
        let marks: Vec<Mark> = marks.into_iter().map(|sighting| News::of(sighting, self.now).mark).collect();
        self.app.store.mark_each(&marks).await;
        if self.control.pace.is_quiet(self.now) {
            return Ok(());
        }
        let mut news: Vec<News> = news.into_iter().map(|sighting| News::of(sighting, self.now)).collect();
        let gone = self.app.store.gone().await?;
        let gone = gone.iter().filter(|gone| !self.is_silenced(gone.agent_id, gone.board_id));
        news.extend(gone.filter_map(News::of_gone));
        let (waiting, news): (Vec<_>, Vec<_>) =
            news.into_iter().partition(|news| news.member.began == Some(Concern::Waiting));
        let (begins, ends): (Vec<_>, Vec<_>) = news.into_iter().partition(|news| news.member.began.is_some());
        let still_offline = sweep.report.complete.then(|| {
            let ended = u64::try_from(ends.len() + silent.len()).unwrap_or(u64::MAX);
            sweep.told_total.saturating_sub(ended)
        });
        let fleet =
            sweep.report.complete.then(|| Around { agents: sweep.counts.active(), live: sweep.counts.live });
        for (begins, waits, news) in [(true, false, begins), (false, false, ends), (true, true, waiting)] {
            self.tell_group(begins, waits, news, fleet, still_offline).await?;
        }
        Ok(())
    }

    /// What is not silenced; and what is.
    fn audible(&self, sweep: &Sweep) -> (Vec<Sighting>, Vec<Sighting>) {
        let sightings = sweep.sightings.iter().cloned();
        sightings
            .partition(|sighting| !self.is_silenced(sighting.watched.agent_id, sighting.watched.board_id))
    }

    fn is_silenced(&self, agent_id: crate::domain::agent::AgentId, board_id: Option<BoardId>) -> bool {
        self.silences.iter().any(|silence| silence.covers(agent_id, board_id, self.now))
    }

    /// Who has flapped and has not fallen silent for an hour. Asked every tenth minute.
    async fn stable(&self, sweep: &Sweep) -> Result<Vec<Sighting>, StoreError> {
        const MINUTE: i64 = 60_000;
        if self.now.as_millis() / MINUTE % ASKED_EVERY != 0 {
            return Ok(Vec::new());
        }
        let live = sweep.flapping.iter().filter(|watched| {
            watched.is_live(self.now) && !self.is_silenced(watched.agent_id, watched.board_id)
        });
        let since = self.now.minus(FLAPPING_WITHIN);
        let mut stable = Vec::new();
        for watched in live {
            if self.app.store.silences_since(watched.agent_id, since).await? == 0 {
                let change = Change {
                    ends: Some((Concern::Flapping, Cause::Stable)),
                    begins: None,
                    told: Told { flapping: false, ..watched.told },
                };
                stable.push(Sighting { watched: watched.clone(), change });
            }
        }
        Ok(stable)
    }

    /// Of a few that fell silent, those that do so again and again: told once, and then no more of each time.
    async fn find_flapping(&self, sightings: &mut [Sighting]) -> Result<(), StoreError> {
        let is_new = |sighting: &Sighting| {
            sighting.change.begins == Some(Concern::Offline) && !sighting.watched.told.flapping
        };
        let mut new: Vec<&mut Sighting> = sightings.iter_mut().filter(|sighting| is_new(sighting)).collect();
        if new.len() > ASKED_AT_ONCE {
            return Ok(());
        }
        let since = self.now.minus(FLAPPING_WITHIN);
        let asked = new.iter().map(|new| self.app.store.silences_since(new.watched.agent_id, since));
        let silences = join_all(asked).await;
        for (sighting, silences) in new.iter_mut().zip(silences) {
            if silences? >= FLAPS_AFTER {
                sighting.change.begins = Some(Concern::Flapping);
                sighting.change.told = Told { concern: None, flapping: true };
            }
        }
        Ok(())
    }

    async fn tell_group(
        &mut self,
        begins: bool,
        waits: bool,
        mut news: Vec<News>,
        fleet: Option<Around>,
        still_offline: Option<u64>,
    ) -> Result<(), StoreError> {
        if news.is_empty() || self.overtaken {
            return Ok(());
        }
        // Worst first, and in the order of names: a receiver reads the beginning.
        news.sort_by(|a, b| {
            let key = |news: &News| (news.member.began.or(news.member.ended), news.member.name.clone());
            key(a).cmp(&key(b))
        });
        if let [only] = &mut news[..]
            && only.ends_silence
            && let Some((since, back_at, cause)) = self.app.store.last_silence(only.member.id).await?
        {
            only.member.cause = Some(cause);
            only.details.offline_since = since;
            only.details.back_at = Some(back_at);
        }
        let incident = (news.len() > 1 || waits).then(|| self.control.pace.incident(self.now));
        let pace = self.control.pace.after(news.len(), incident.filter(|_| begins && !waits), self.now);
        let marks: Vec<Mark> = news.iter().map(|news| news.mark.clone()).collect();
        let boards = self.boards_with_channels();
        let message = |places: &[usize]| {
            let content = match (places, incident) {
                ([only], None) => {
                    let News { member, details, .. } = news[*only].clone();
                    Content::Agent { member, details, fleet }
                }
                (_, incident) => {
                    let members = places.iter().map(|place| news[*place].member.clone()).collect();
                    let (tallies, members) = group(members, &boards);
                    let incident = incident.unwrap_or_else(|| self.control.pace.incident(self.now));
                    Content::Fleet { begins, incident, tallies, members, fleet, still_offline }
                }
            };
            self.message(content)
        };
        let mut control = self.control.clone();
        let told = self.app.store.tell(&mut control, &marks, &pace, None, message).await?;
        self.control = control;
        match told {
            Telling::Done if begins && !waits => {
                let stalled = news.iter().filter(|news| news.member.began == Some(Concern::Stalled));
                let stalled = stalled.map(|news| news.member.id);
                self.app.store.note_stalls(stalled, self.control.seq, self.now).await?;
                self.raised += u64::try_from(marks.len()).unwrap_or(u64::MAX);
            }
            Telling::Done | Telling::Nothing => {}
            Telling::Overtaken => self.overtaken = true,
        }
        Ok(())
    }

    fn message(&self, content: Content) -> Message {
        let base_url = self.app.config.api_url.get().clone();
        Message { seq: self.control.seq + 1, at: self.now, base_url, content }
    }

    fn boards_with_channels(&self) -> Vec<BoardId> {
        let boards: BTreeSet<BoardId> = self.channels.iter().filter_map(|channel| channel.board_id).collect();
        boards.into_iter().collect()
    }

    /// Tells every channel that we are deaf, or hear again.
    async fn tell_of_ourselves(&mut self) -> Result<(), StoreError> {
        let (content, is_deaf) = match self.control.hearing.news(self.now) {
            None => return Ok(()),
            Some(DeafNews::Deaf) => {
                let since = self.control.hearing.deaf_since.unwrap_or(self.now);
                (Content::Deaf { since }, true)
            }
            Some(DeafNews::Heard) => {
                let last = self.control.hearing.windows.last();
                (Content::Heard { since: last.map_or(self.now, |window| window.from) }, false)
            }
        };
        self.tell_system(content, Some(is_deaf)).await
    }

    /// Tells the other channels of each that was disabled, once.
    async fn tell_of_channels(&mut self) -> Result<(), StoreError> {
        let is_news =
            |channel: &&Channel| channel.channel_state == ChannelState::Disabled && !channel.disabled_told;
        let disabled: Vec<Channel> = self.channels.iter().filter(is_news).cloned().collect();
        for channel in disabled {
            // First, so that it is told at most once: its state is on the list of channels as well.
            if !self.app.store.note_disabled_told(channel.channel_id).await? {
                continue;
            }
            let content = Content::ChannelDisabled {
                channel_id: channel.channel_id,
                label: channel.label,
                target: channel.target,
                reason: channel.disabled_reason.unwrap_or_default(),
                board_id: channel.board_id,
            };
            self.tell_system(content, None).await?;
        }
        Ok(())
    }

    async fn tell_system(&mut self, content: Content, deaf_told: Option<bool>) -> Result<(), StoreError> {
        if self.overtaken {
            return Ok(());
        }
        let pace: Pace = self.control.pace.clone();
        let message = |_: &[usize]| self.message(content.clone());
        let mut control = self.control.clone();
        let told = self.app.store.tell(&mut control, &[], &pace, deaf_told, message).await?;
        self.control = control;
        self.overtaken = told == Telling::Overtaken;
        if self.overtaken {
            warn!(cause = "another sweep told the next message", "overtaken");
        }
        Ok(())
    }

    /// The fleet at a glance.
    fn summary(&self, sweep: &Sweep) -> Fleet {
        let mut boards: Vec<BoardCounts> = sweep
            .boards
            .iter()
            .map(|(board_id, counts)| BoardCounts { board_id: *board_id, counts: *counts })
            .collect();
        boards.sort_by_key(|board| std::cmp::Reverse(board.counts.offline + board.counts.never_seen));
        boards.truncate(BOARDS);
        let mut told = sweep.told.clone();
        told.sort_by(|a, b| (a.concern, a.name.as_str()).cmp(&(b.concern, b.name.as_str())));
        told.truncate(NAMED);
        let named = u64::try_from(told.len()).unwrap_or(u64::MAX);
        Fleet {
            as_of: self.now,
            // The marks were read before this sweep told anything: who begins to hear now is told that by its messages.
            seq: self.seq_before,
            deaf_since: self.control.hearing.deaf_since,
            counts: sweep.counts,
            boards,
            told,
            more: sweep.told_total.saturating_sub(named),
        }
    }
}
