//! Updates of an appliance with a GPU, which only one VM can have at a time: the old VM ends before the new one boots, and
//! starts again if the new one fails.

use std::sync::Arc;

use cocoon_host_agent::attest::{Asked, Judge, Judging};
use cocoon_host_agent::daemon::api::{UpdateRequest, View};
use cocoon_host_agent::lifecycle::{Deadlines, State};
use cocoon_host_agent::update::{Phase, Way};
use cocoon_measurements::manifest::public_key;
use cocoon_protocol::bytes::Hex;
use tokio::time::timeout;

use crate::hosted::DEADLINE;
use crate::image::{SIGNER, make};
use crate::world::World;

/// A judge that accepts the evidence or, if the string is not empty, refuses it for that reason.
struct Told(&'static str);

impl Judge for Told {
    fn judge(&self, _asked: Asked) -> Judging {
        let words = self.0;
        Box::pin(async move {
            match words {
                "" => Ok("the tests' judge accepts it".to_owned()),
                why => Err(why.to_owned()),
            }
        })
    }
}

/// Starts an appliance with a GPU and updates it to a VM that plays `part`, with a judge of this reason.
async fn updated(part: &str, judge: &'static str) -> (World, View) {
    let head = format!(
        "[updates]\nsigners = [\"{}\"]\nproving_seconds = 1\nstart_seconds = 60",
        Hex(public_key(&SIGNER))
    );
    let (parts, more) = (
        [("first", "serves")],
        "tee = \"tdx\"\ngpu = \"0000:41:00.0\"",
    );
    let judge = Arc::new(Told(judge));
    let world = World::of(&parts, &head, more, Deadlines::default(), judge).await;
    world.serving("first").await;
    world.part("b/vms/first", part);
    let newer = make(world.path(), "newer", "serves new", 6, &SIGNER);
    let request = UpdateRequest {
        manifest: newer.join("manifest.json"),
        ..UpdateRequest::default()
    };
    let client = world.client();
    let path = "/v1/appliances/first/update?wait=true";
    let asked = client.post_with::<View>(path, &request);
    let view = timeout(DEADLINE, asked).await.unwrap().unwrap();
    (world, view)
}

/// Returns the indices of the last and of the first journal entry that matches.
fn places(world: &World, such: impl Fn(&str, &str) -> bool) -> (usize, usize) {
    let told = world.journal.after(0).0;
    let mut places = told
        .iter()
        .enumerate()
        .filter(|(_, entry)| such(&entry.state, &entry.text))
        .map(|(place, _)| place);
    let first = places.next().unwrap_or_else(|| panic!("{told:#?}"));
    (places.last().unwrap_or(first), first)
}

#[tokio::test]
async fn the_new_vm_boots_when_the_old_one_has_given_its_gpu_back() {
    let (world, view) = updated("serves", "").await;
    let update = &view.update.as_ref().unwrap().update;
    assert_eq!((&update.phase, update.way), (&Phase::Done, Way::InPlace));
    assert_eq!(view.deployment.release, Some(6));
    // The new manifest expires in an hour. The warning follows once the manifest is the appliance's.
    let (_, told) = places(&world, |state, text| {
        state == "manifest" && text.starts_with("the image's manifest ends on ")
    });
    let (_, booting) = places(&world, |_, text| text.starts_with("the new VM: "));
    assert!(booting < told, "{:#?}", world.journal.after(0).0);
    assert_eq!(view.life.state, State::Serving);
    let because = "the old VM finishes before the new one starts: its GPU cannot be in two VMs";
    places(&world, |_, text| text == because);
    let (old_ends, _) = places(&world, |state, _| state == "stopped");
    let (_, new_begins) = places(&world, |_, text| text.starts_with("the new VM: "));
    assert!(old_ends < new_begins, "{:#?}", world.journal.after(0).0);
}

#[tokio::test]
async fn an_update_that_fails_gives_the_gpu_back_to_the_old_vm() {
    for (part, judge, expected) in [
        ("fails", "", "the image is incomplete"),
        (
            "serves",
            "another GPU than its manifest's",
            "a client would not accept its evidence: another GPU than its manifest's",
        ),
    ] {
        let (world, view) = updated(part, judge).await;
        let Phase::Failed { reason } = &view.update.as_ref().unwrap().update.phase else {
            panic!("{view:#?}")
        };
        assert!(reason.contains(expected), "{reason}");
        assert_eq!((view.deployment.release, view.previous), (None, None));
        let (ended, _) = places(&world, |_, text| text.starts_with("the new VM: "));
        let seq = world.journal.after(0).0[ended].seq;
        world.until_after(seq, "first", "serving").await;
        let (again, _) = places(&world, |state, _| state == "preparing");
        assert!(ended < again, "{:#?}", world.journal.after(0).0);
        assert_eq!(world.show("first").await.life.run, 2);
        let (failed, _) = places(&world, |state, _| state == "update-failed");
        assert!(world.journal.after(0).0[failed].text.contains(expected));
    }
}
