//! Builds laboratories of network namespaces and runs missions in them.
mod bird;
mod fabric;
mod netns;
mod sys;
mod topology;
