//! Builds laboratories of network namespaces and runs missions in them.
mod backend;
mod bird;
mod client;
mod config;
mod daemon;
mod fabric;
mod lab;
mod load;
mod netns;
mod sweep;
mod sys;
mod topology;

#[cfg(test)]
mod tmp {
    use crate::*;
    use std::time::Instant;
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn net() {
        let t = topology::Topology { zones: 3 };
        let t0 = Instant::now();
        let claim = sweep::Claim::take("tmp").unwrap();
        let f = fabric::Fabric::build(&claim.prefix(), t).await.unwrap();
        println!("net {:?}", t0.elapsed());
        let mut routers = vec![];
        for n in ["tor1", "tor2", "tor3", "core"] {
            routers.push(bird::Router::start(n, t, f.place(n).unwrap().netns.clone(), &claim.dir()).unwrap());
        }
        let mut bes = vec![];
        for h in t.of(topology::Role::Backend, None) {
            bes.push(backend::Backend::start(h, &f.place(&h.to_string()).unwrap().netns).await.unwrap());
        }
        let c = topology::Host { zone: 1, role: topology::Role::Client, index: 1 };
        let r = netns::Resident::start(&f.place(&c.to_string()).unwrap().netns).unwrap();
        println!("started {:?}", t0.elapsed());
        for be in t.of(topology::Role::Backend, None) {
            for (src, dst) in [
                (topology::client_address(1, 7, false), std::net::IpAddr::from(be.address4())),
                (topology::client_address(1, 7, true), be.address6().into()),
            ] {
                let out = r
                    .spawn(async move {
                        let s = client::dial(src, (dst, 8080).into()).await?;
                        let mut s = client::begin(Box::new(s)).await?;
                        client::ask(&mut s, "/x").await
                    })
                    .await
                    .unwrap();
                println!("{be} {out:?}");
            }
        }
        println!("served {:?}", t0.elapsed());
        loop {
            let mut n = 0;
            for r in &routers {
                if let Ok(s) = r.console().sessions().await {
                    n += s.iter().filter(|s| s.established).count();
                }
            }
            if n == 6 {
                break;
            }
            if t0.elapsed().as_secs() > 10 {
                println!("sessions {n}");
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        println!("bgp {:?}", t0.elapsed());
        for r in &routers {
            println!(
                "{:?} {:?}",
                r.console().sessions().await,
                r.console().announcers("198.51.100.10".parse().unwrap()).await
            );
        }
        if std::env::var("HOLD").is_ok() {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        }
        for r in &mut routers {
            r.stop().await.unwrap();
        }
    }
}
