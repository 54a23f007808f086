//! What follows from an explanation, for people in a hurry.

use crate::clock;
use crate::inspect::Explanation;
use crate::inspect::Finding;
use crate::inspect::LifeView;
use crate::inspect::Logged;
use crate::inspect::Outcome;

impl Explanation {
    /// The same with its conclusions.
    #[must_use]
    pub fn concluded(mut self) -> Self {
        let mut says: Vec<String> = self.events.iter().filter_map(says_of_log).collect();
        if self.events.is_empty() {
            says.push(format!("nothing of {} is in memory; name an event by its cursor (--event)", self.channel));
        }
        says.extend(says_of_permission(&self.permission, &self.user));
        if let [only] = self.events.as_slice()
            && only.logged == Logged::Logged
        {
            says.push(self.says_of_streams());
        }
        let dropped = self.instances.iter().flat_map(|instance| &instance.rejections);
        if let Some(last) = dropped.max_by_key(|note| note.at_ms) {
            let at = clock::rfc3339(last.at_ms.saturating_mul(1000));
            says.push(format!("the last update of {} that was dropped: {} ({at})", self.channel, last.what));
        }
        let off: Vec<&str> = self.instances.iter().filter(|i| !i.inspector).map(|i| i.node.as_str()).collect();
        if !off.is_empty() {
            says.push(format!("INSPECTOR is off at {}: what happened there is not known", off.join(", ")));
        }
        if !self.complete {
            says.push("not every instance has answered".to_owned());
        }
        self.says = says;
        self
    }

    fn says_of_streams(&self) -> String {
        let lives: Vec<&LifeView> = self.instances.iter().flat_map(|instance| &instance.lives).collect();
        if lives.is_empty() {
            return self.says_of_nobody();
        }
        let with = |outcome: Outcome| lives.iter().filter(move |life| life.fates.iter().any(|f| f.outcome == outcome));
        let (written, queued) = (with(Outcome::Written).count(), with(Outcome::Queued).count());
        if written > 0 {
            return format!("it was written to {written} of {} remembered streams", lives.len());
        }
        if queued > 0 {
            return format!("it waits for {queued} of {} remembered streams to read", lives.len());
        }
        let newest = lives.iter().max_by_key(|life| life.opened_ms).and_then(|life| life.fates.first());
        let says = newest.map_or("", |fate| fate.says.as_str());
        format!("it was written to none of {} remembered streams; of the newest: {says}", lives.len())
    }

    fn says_of_nobody(&self) -> String {
        let refused = self.instances.iter().flat_map(|instance| &instance.refusals).max_by_key(|refusal| refusal.at_ms);
        match refused {
            Some(refusal) => format!("no stream is remembered; the last request was refused ({})", refusal.what),
            None => "no stream of this user is remembered".to_owned(),
        }
    }
}

fn says_of_log(event: &Finding) -> Option<String> {
    let at = &event.at;
    let other = event.channel.as_deref().unwrap_or_default();
    match event.logged {
        Logged::Logged => None,
        Logged::Rejected => {
            Some(format!("{at}: an update of {other} was judged here and dropped; realtime_rejected_total counts why"))
        }
        Logged::OtherChannel => Some(format!("{at} is an event of {other}")),
        Logged::Trimmed => Some(format!("{at} was trimmed away, or is of a log that is no more")),
        Logged::NoSuchEntry => Some(format!("the log has no entry at {at}")),
        Logged::NotYet => Some(format!("the log has not come to {at} yet")),
        Logged::Rewritten => Some(format!("another entry stands at {at}: the log was rewritten")),
        Logged::Unavailable => Some("the log can't be asked".to_owned()),
    }
}

fn says_of_permission(permission: &str, user: &str) -> Option<String> {
    match permission {
        "granted" => None,
        "denied" => Some(format!("{user} may not see the channel, as the database says now")),
        "no_such_user" => Some(format!("there is no user {user}")),
        "disabled" => Some(format!("{user} is disabled")),
        _ => Some("the database can't be asked whether the channel may be seen".to_owned()),
    }
}
