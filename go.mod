module github.com/slipway-os/slipway

go 1.26.0
