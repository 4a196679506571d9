module github.com/slipway-os/slipway/images/components/pause

go 1.26.0
