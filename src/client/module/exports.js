export const{WebSocket,install,options}=underpass;export default WebSocket;
