package dashboard

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/slipway-os/slipway/images/bootspec"
)

// collector makes metrics of what the server knows at the moment it is asked (prometheus.Collector).
type collector struct{ Source }

var (
	machineState = prometheus.NewDesc("slipway_machine_state", "1 for the state that a machine of the cluster document is in.", []string{"node", "role", "mac", "state"}, nil)
	machineStuck = prometheus.NewDesc("slipway_machine_stuck", "1 while a machine is in a state that it should have left.", []string{"node"}, nil)
	machineSeen  = prometheus.NewDesc("slipway_machine_last_seen_timestamp_seconds", "When the server last answered a machine.", []string{"node"}, nil)
	bootSeconds  = prometheus.NewDesc("slipway_machine_boot_seconds", "From the first offer of the newest boot to Ready.", []string{"node"}, nil)
	refused      = prometheus.NewDesc("slipway_machine_refused_claims", "Claims of a node's configuration that were refused since it was armed last.", []string{"node"}, nil)
	unknown      = prometheus.NewDesc("slipway_unknown_machines", "Machines that were seen and are not in the cluster document.", nil, nil)
	answers      = prometheus.NewDesc("slipway_dhcp_answers_total", "Answers to DHCP requests.", nil, nil)
	rivals       = prometheus.NewDesc("slipway_other_dhcp_servers", "Other DHCP servers that were seen on the network in the last minutes.", nil, nil)
	bytesSent    = prometheus.NewDesc("slipway_sent_bytes_total", "Bytes of files sent.", []string{"protocol"}, nil)
	broken       = prometheus.NewDesc("slipway_tftp_broken_transfers_total", "TFTP transfers that ended early.", nil, nil)
)

func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{machineState, machineStuck, machineSeen, bootSeconds, refused, unknown, answers, rivals, bytesSent, broken} {
		out <- d
	}
}

func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	strangers := 0
	now := c.Now()
	for _, n := range c.Nodes() {
		if n.Name == "" {
			strangers++
			continue
		}
		gauge(machineState, 1, n.Name, n.Role, n.MAC, n.State)
		stuck := 0.0
		if !n.Stuck(now).IsZero() {
			stuck = 1
		}
		gauge(machineStuck, stuck, n.Name)
		if n.Claim != nil {
			gauge(refused, float64(n.Claim.Refused), n.Name)
		}
		if !n.LastSeen.IsZero() {
			gauge(machineSeen, float64(n.LastSeen.UnixMilli())/1000, n.Name)
		}
		boot := n.Boot()
		if ready, ok := boot.Find(bootspec.EventReady); ok {
			gauge(bootSeconds, ready.Time.Sub(boot.Events[0].Time).Seconds(), n.Name)
		}
	}
	gauge(unknown, float64(strangers))
	if c.Rivals != nil {
		gauge(rivals, float64(c.Rivals()))
	}
	t := c.Traffic()
	counter := func(d *prometheus.Desc, value int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	counter(answers, t.Answers)
	counter(bytesSent, t.HTTPBytes, "http")
	counter(bytesSent, t.HTTPSBytes, "https")
	counter(bytesSent, t.TFTPBytes, "tftp")
	counter(broken, t.Broken)
}

// metrics serves them with those of the process, in Prometheus' text format or OpenMetrics.
func metrics(s Source) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelError), MaxRequestsInFlight: 4})
}
