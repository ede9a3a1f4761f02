import uproot
