//! Rules of the resource: what one object can tell is refused by the API server, with a sentence that says what to write.

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{Relay, certificate::Authority, kubernetes::from_json, runtime::wait, wait::eventually_some};
use tempfile::TempDir;

use crate::scene::{LIMIT, NAME, Scene, condition, merged};

/// A resource that is taken.
#[derive(Deserialize)]
struct Taken {
    name: String,
    spec: Value,
}

/// One that is not; the first of the taken ones is changed by `before`, if there is that, and then by `patch`.
#[derive(Deserialize)]
struct Refused {
    name: String,
    before: Option<Value>,
    patch: Value,
    sentence: String,
}

fn taken() -> Vec<Taken> {
    serde_saphyr::from_str(include_str!("../operator/taken.yaml")).expect("taken.yaml is such")
}

fn object(spec: &Value) -> Value {
    json!({ "apiVersion": "backupmx.io/v1alpha1", "kind": "BackupMx", "metadata": { "name": NAME }, "spec": spec })
}

#[test]
fn each_rule_refuses_what_it_is_for_with_its_sentence() {
    let scene = Scene::without_operator();
    let shortest = object(&taken()[0].spec);
    let rules: Vec<Refused> =
        serde_saphyr::from_str(include_str!("../operator/refused.yaml")).expect("refused.yaml is such");
    let mut wrong = Vec::new();
    for Refused { name, before, patch, sentence } in rules {
        let answer = match before {
            None => {
                let object = from_json(merged(shortest.clone(), patch));
                wait(scene.resources().create(&PostParams { dry_run: true, ..PostParams::default() }, &object))
                    .map(drop)
            }
            Some(before) => {
                let object = from_json(merged(shortest.clone(), before));
                wait(scene.resources().create(&PostParams::default(), &object))
                    .unwrap_or_else(|cause| panic!("{name}: {cause}"));
                let answer =
                    wait(scene.resources().patch(NAME, &PatchParams::default(), &Patch::Merge(patch))).map(drop);
                wait(scene.resources().delete(NAME, &DeleteParams::default())).expect("admin may");
                answer
            }
        };
        match answer {
            Ok(()) => wrong.push(format!("{name}: was taken")),
            Err(cause) if !cause.to_string().contains(&sentence) => wrong.push(format!("{name}: {cause}")),
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_the_api_server_takes_the_operator_makes_and_the_relay_runs() {
    let folder = TempDir::with_prefix("backupmx-").expect("a temporary folder can be made");
    for (number, Taken { name, spec }) in taken().into_iter().enumerate() {
        let scene = Scene::empty();
        // A pause is taken as well, and then nothing is made.
        scene.create(NAME, merged(spec, json!({ "paused": false })));
        let mx = scene.until(&format!("{name} is accepted"), |mx| condition(mx, "Accepted")["status"] == "True");
        assert_eq!(mx["status"]["observedGeneration"], mx["metadata"]["generation"], "{name}");
        let document = eventually_some(LIMIT, "its document", || scene.object("ConfigMap", "mx-relay"));
        let text = document["data"]["relay.yaml"].as_str().unwrap_or_else(|| panic!("{name}: {document:#}"));
        let file = folder.path().join(format!("{number}.yaml"));
        // The CA file is where pods have it; that it is missing here is said after all else was found good.
        std::fs::write(&file, text.replace("/etc/backupmx/primary-ca/", &format!("{}/", folder.path().display())))
            .expect("our folder is ours");
        std::fs::copy(Authority::new().file(), folder.path().join("ca.crt")).expect("our folder is ours");
        let checked = Relay::run(&["check-config", "--config", &file.to_string_lossy()]);
        assert_eq!(checked.code, Some(0), "{name}: {checked}\n{text}");
    }
}
