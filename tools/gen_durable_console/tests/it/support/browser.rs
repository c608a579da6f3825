//! A browser, driven through its protocol for developers' tools.
//!
//! Invariant: whatever a page does against its policy, and each error of its script, fails the test
//! when the tab is closed.

use std::{
    env,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chromiumoxide::{
    Browser as Chromium, BrowserConfig, Page,
    cdp::{
        browser_protocol::{
            dom::{
                FocusParams, GetDocumentParams, GetOuterHtmlParams, NodeId, QuerySelectorParams,
            },
            emulation::{
                MediaFeature, SetDeviceMetricsOverrideParams, SetScriptExecutionDisabledParams,
            },
            input::{DispatchKeyEventParams, DispatchKeyEventType, InsertTextParams},
            log::{EventEntryAdded, LogEntryLevel},
            network::CookieParam,
            page::NavigateParams,
        },
        js_protocol::runtime::EventExceptionThrown,
    },
    page::ScreenshotParams,
};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Error, SOON, site::Site};

/// One browser at a time: several would only slow each other down.
static ONE: Semaphore = Semaphore::const_new(1);

/// The names of its program.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

pub(crate) struct Browser {
    chromium: Chromium,
    home: PathBuf,
    _one: SemaphorePermit<'static>,
}

/// A page that is open.
pub(crate) struct Tab {
    pub(crate) page: Page,
    complaints: Arc<Mutex<Vec<String>>>,
}

fn program() -> Option<PathBuf> {
    if let Some(path) = env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let mut all = NAMES.iter().flat_map(|name| folders.iter().map(move |dir| dir.join(name)));
    all.find(|path| path.is_file())
}

impl Browser {
    /// Starts the browser. If none is installed, it prints that and returns None.
    pub(crate) async fn start() -> Result<Option<Self>, Error> {
        let Some(program) = program() else {
            eprintln!("skipped: no browser is installed (apt-get install chromium)");
            return Ok(None);
        };
        let one = ONE.acquire().await?;
        let home = env::temp_dir().join(format!("gen_durable_console-{}", std::process::id()));
        let config = BrowserConfig::builder()
            .chrome_executable(program)
            // The container's root has no sandbox, and the pages are ours.
            .no_sandbox()
            .user_data_dir(&home)
            .viewport(None)
            .window_size(1440, 1000)
            .launch_timeout(SOON)
            .request_timeout(SOON)
            .args(["disable-gpu", "hide-scrollbars", "font-render-hinting=none"])
            .build()?;
        let (chromium, mut handler) = Chromium::launch(config).await?;
        tokio::spawn(async move { while handler.next().await.is_some() {} });
        Ok(Some(Self { chromium, home, _one: one }))
    }

    /// Opens a tab of somebody whom the site knows by name.
    pub(crate) async fn tab(&self, site: &Site, who: &str) -> Result<Tab, Error> {
        let tab = self.blank().await?;
        let cookie = CookieParam::builder().name("who").value(who).url(site.url("/"));
        tab.page.set_cookie(cookie.build()?).await?;
        Ok(tab)
    }

    pub(crate) async fn blank(&self) -> Result<Tab, Error> {
        let page = self.chromium.new_page("about:blank").await?;
        let complaints = Arc::new(Mutex::new(Vec::new()));
        page.enable_log().await?;
        page.enable_runtime().await?;
        let mut entries = page.event_listener::<EventEntryAdded>().await?;
        let heard = Arc::clone(&complaints);
        tokio::spawn(async move {
            while let Some(event) = entries.next().await {
                let entry = &event.entry;
                // A page that is refused says so, and a test may want that.
                let is_status = entry.text.contains("the server responded with a status");
                if entry.level == LogEntryLevel::Error && !is_status {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(entry.text.clone());
                }
            }
        });
        let mut thrown = page.event_listener::<EventExceptionThrown>().await?;
        let heard = Arc::clone(&complaints);
        tokio::spawn(async move {
            while let Some(event) = thrown.next().await {
                let text = format!("{:?}", event.exception_details);
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
        });
        Ok(Tab { page, complaints })
    }

    pub(crate) async fn end(mut self) -> Result<(), Error> {
        self.chromium.close().await?;
        self.chromium.wait().await?;
        // It may still be writing there.
        let _ = std::fs::remove_dir_all(&self.home);
        Ok(())
    }
}

impl Tab {
    pub(crate) async fn goto(&self, url: &str) -> Result<(), Error> {
        self.page.goto(url).await?;
        self.wait("document.readyState === 'complete'").await
    }

    pub(crate) async fn eval<T: DeserializeOwned>(&self, script: &str) -> Result<T, Error> {
        Ok(self.page.evaluate_expression(script).await?.into_value()?)
    }

    /// Waits until this is true in the page. Between two pages there is none to ask.
    pub(crate) async fn wait(&self, condition: &str) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            if let Ok(true) = self.eval::<bool>(&format!("!!({condition})")).await {
                return Ok(());
            }
            if began.elapsed() > SOON {
                let text: String = self.eval("document.body.innerText").await?;
                let url = self.page.url().await?.unwrap_or_default();
                return Err(format!("never at {url}: {condition}\n{text}").into());
            }
            // The page changes by itself, and tells nobody.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until the page shows a text.
    pub(crate) async fn sees(&self, text: &str) -> Result<(), Error> {
        self.wait(&format!("document.body?.innerText.includes({})", serde_json::to_string(text)?))
            .await
    }

    /// Clicks, as a person does: something that is in view.
    pub(crate) async fn click(&self, selector: &str) -> Result<(), Error> {
        self.wait(&format!("document.querySelector({})", serde_json::to_string(selector)?)).await?;
        let began = Instant::now();
        loop {
            // A live page may replace the element between the look at it and the click.
            match self.page.find_element(selector).await {
                Ok(element) if element.click().await.is_ok() => return Ok(()),
                _ if began.elapsed() > SOON => return Err(format!("{selector} stays away").into()),
                _ => tokio::task::yield_now().await,
            }
        }
    }

    pub(crate) async fn fill(&self, selector: &str, text: &str) -> Result<(), Error> {
        self.click(selector).await?;
        self.page.find_element(selector).await?.type_str(text).await?;
        Ok(())
    }

    /// Presses a key, whatever has the focus.
    pub(crate) async fn press(&self, key: &str) -> Result<(), Error> {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            other => return Err(other.into()),
        };
        for kind in [DispatchKeyEventType::KeyDown, DispatchKeyEventType::KeyUp] {
            let mut event =
                DispatchKeyEventParams::builder().key(key).code(key).windows_virtual_key_code(code);
            if let (DispatchKeyEventType::KeyDown, Some(text)) = (&kind, text) {
                event = event.text(text);
            }
            self.page.execute(event.r#type(kind).build()?).await?;
        }
        Ok(())
    }

    pub(crate) async fn width(&self, width: i64, height: i64) -> Result<(), Error> {
        let metrics = SetDeviceMetricsOverrideParams::builder()
            .width(width)
            .height(height)
            .device_scale_factor(1.0)
            .mobile(false);
        self.page.execute(metrics.build()?).await?;
        Ok(())
    }

    pub(crate) async fn scheme(&self, scheme: &str) -> Result<(), Error> {
        let feature = MediaFeature { name: "prefers-color-scheme".into(), value: scheme.into() };
        self.page.emulate_media_features(vec![feature]).await?;
        Ok(())
    }

    pub(crate) async fn picture(&self) -> Result<Vec<u8>, Error> {
        Ok(self.page.screenshot(ScreenshotParams::builder().build()).await?)
    }

    /// Turns scripts off. Nothing can be evaluated in the page any more.
    pub(crate) async fn without_scripts(&self) -> Result<Plain<'_>, Error> {
        self.page.execute(SetScriptExecutionDisabledParams::new(true)).await?;
        Ok(Plain { tab: self })
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes it, if it has nothing to complain of.
    pub(crate) async fn close(self) -> Result<(), Error> {
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "{complaints:#?}");
        self.page.close().await?;
        Ok(())
    }
}

/// A tab without scripts. The protocol itself looks at the document.
pub(crate) struct Plain<'a> {
    tab: &'a Tab,
}

impl Plain<'_> {
    pub(crate) async fn goto(&self, url: &str) -> Result<(), Error> {
        self.tab.page.execute(NavigateParams::new(url)).await?;
        Ok(())
    }

    async fn root(&self) -> Result<NodeId, Error> {
        Ok(self.tab.page.execute(GetDocumentParams::default()).await?.root.node_id)
    }

    async fn html(&self) -> Result<String, Error> {
        let html = GetOuterHtmlParams::builder().node_id(self.root().await?).build();
        Ok(self.tab.page.execute(html).await?.outer_html.clone())
    }

    /// Waits until the page's HTML has a text.
    pub(crate) async fn sees(&self, text: &str) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            // Between two pages there is no document to look at.
            match self.html().await {
                Ok(html) if html.contains(text) => return Ok(()),
                Ok(html) if began.elapsed() > SOON => {
                    return Err(format!("never seen: {text}\n{html}").into());
                }
                Err(error) if began.elapsed() > SOON => return Err(error),
                _ => {}
            }
            // The browser loads the page, and tells nobody.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    pub(crate) async fn focus(&self, selector: &str) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            match self.try_to_focus(selector).await {
                Err(error) if began.elapsed() > SOON => return Err(error),
                // The browser is still reading the page, and tells nobody.
                Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn try_to_focus(&self, selector: &str) -> Result<(), Error> {
        let found = QuerySelectorParams::new(self.root().await?, selector);
        let node = self.tab.page.execute(found).await?.node_id;
        self.tab.page.execute(FocusParams::builder().node_id(node).build()).await?;
        Ok(())
    }

    pub(crate) async fn types(&self, text: &str) -> Result<(), Error> {
        self.tab.page.execute(InsertTextParams::new(text)).await?;
        Ok(())
    }

    pub(crate) async fn press(&self, key: &str) -> Result<(), Error> {
        self.tab.press(key).await
    }
}
