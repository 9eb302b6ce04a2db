// Package metrics counts what a running server does and shows it: as text that Prometheus reads, as JSON, and over HTTP on
// a listener with protocol = "admin".
//
// What happens often is counted here (Metrics is the pipeline's Observer and the queue's); what rooms count themselves is
// read from them when somebody asks (Sources). Nothing is global: two servers in one process have two registries.
//
// Labels have few values, all of them from the configuration or from fixed lists: names of pipelines, stages,
// plugins and listeners, actions, kinds. Never an address, a message or anything else that a stranger could choose, so
// neither memory nor what is shown depends on the mail. There are no secrets in it. All names begin with sluice_; those of
// the Go runtime (go_) and of the process (process_) come with the library.
//
// The HTTP part answers GET and HEAD on /metrics, /livez and /readyz, three at a time, with deadlines; it knows no login, so the
// configuration keeps it on loopback.
package metrics
